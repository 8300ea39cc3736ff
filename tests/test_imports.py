"""Who may import whom: features build on the core alone, and no module imports itself in a circle.

Imports count wherever they stand, in functions and under ``TYPE_CHECKING`` too.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = 'mmdiscard'
FEATURES = ('tta', 'learned', 'calibration', 'tuning', 'graphs')
#: modules that are run, as `python -m mmdiscard.test`: each may import a feature, none is imported
COMMANDS = ('test', 'calibrate', 'fit_tta', 'train_aggregator', 'tune', 'export')
INIT = '.__init__'

Sources = Mapping[str, str]


def read_sources(root: Path = ROOT) -> dict[str, str]:
    """Text of every module of the package by its dotted name; of packages with ``.__init__``."""
    return {
        '.'.join(path.relative_to(root).with_suffix('').parts): path.read_text()
        for path in (root / PACKAGE).rglob('*.py')
    }


def imported(name: str, source: str, modules: set[str]) -> Iterator[str]:
    """Modules that one module names in its imports, those of the package as keys of `Sources`.

    Args:
        name: dotted name of the module.
        source: its text.
        modules: all modules of the package.
    """

    def module(target: str) -> str:
        return target + INIT if target + INIT in modules else target

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (module(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = name.split('.')[: -node.level] if node.level else []
            base = '.'.join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                inner = module(f'{base}.{alias.name}')
                yield inner if inner in modules else module(base)


def import_graph(sources: Sources) -> dict[str, set[str]]:
    """For every module the modules that it imports."""
    modules = set(sources)
    return {name: set(imported(name, text, modules)) for name, text in sources.items()}


def feature_of(module: str) -> str | None:
    """The optional feature whose folder a module is in; None for the core."""
    parts = module.split('.')
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 and parts[1] in FEATURES else None


def wrong_directions(sources: Sources) -> list[str]:
    """Imports of benchmarks, of a feature by the core or by another one, and of a command."""
    commands = {f'{PACKAGE}.{name}' for name in COMMANDS}
    above = {PACKAGE + INIT, *commands}
    found = []
    for name, targets in import_graph(sources).items():
        for target in targets:
            foreign = feature_of(target) not in (None, feature_of(name)) and name not in above
            if target.split('.')[0] == 'benchmarks' or foreign or target in commands:
                found.append(f'{name} imports {target}')
    return sorted(found)


def cycle(sources: Sources) -> list[str]:
    """Modules of a circle of imports, if there is one."""
    graph = import_graph(sources)
    inner = {name: {t for t in targets if t in sources} for name, targets in graph.items()}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


# ----------------------------------------------------------------------------------- the package
def test_imports_go_one_way():
    assert wrong_directions(read_sources()) == []


def test_no_circle():
    assert cycle(read_sources()) == []


# ----------------------------------------------------------------------------------- the checker
LEGAL = {
    'mmdiscard.__init__': 'from .tta import models\nfrom .models import attach',
    'mmdiscard.errors': '',
    'mmdiscard.models.__init__': 'from .attach import attach',
    'mmdiscard.models.attach': 'import torch\nfrom ..errors import MMDiscardError',
    'mmdiscard.tta.__init__': 'from .models import Model',
    'mmdiscard.tta.models': 'from ..models import attach\nfrom . import transforms',
    'mmdiscard.tta.transforms': 'import mmdiscard.errors',
    'mmdiscard.learned.__init__': '',
    'mmdiscard.fit_tta': 'from .tta import models',
}
UNDER_TYPE_CHECKING = 'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}'
IN_FUNCTION = 'def late():\n    {}'


def test_legal_imports_pass():
    assert wrong_directions(LEGAL) == cycle(LEGAL) == []


@pytest.mark.parametrize('place', ['{}', UNDER_TYPE_CHECKING, IN_FUNCTION])
@pytest.mark.parametrize(
    ('name', 'statement', 'target'),
    [
        ('mmdiscard.models.attach', 'from ..tta.models import Model', 'mmdiscard.tta.models'),
        ('mmdiscard.models.attach', 'from mmdiscard import tta', 'mmdiscard.tta.__init__'),
        ('mmdiscard.errors', 'import mmdiscard.learned', 'mmdiscard.learned.__init__'),
        ('mmdiscard.tta.models', 'from .. import learned', 'mmdiscard.learned.__init__'),
        ('mmdiscard.learned.__init__', 'from ..tta import Model', 'mmdiscard.tta.__init__'),
        ('mmdiscard.tta.models', 'from benchmarks.demo import run', 'benchmarks.demo'),
        ('mmdiscard.tta.models', 'from ..fit_tta import main', 'mmdiscard.fit_tta'),
    ],
)
def test_wrong_directions_are_found(place, name, statement, target):
    found = wrong_directions(LEGAL | {name: place.format(statement)})
    assert found == [f'{name} imports {target}']


@pytest.mark.parametrize('place', ['{}', UNDER_TYPE_CHECKING, IN_FUNCTION])
@pytest.mark.parametrize(
    ('name', 'statement', 'circle'),
    [
        ('mmdiscard.tta.transforms', 'from .models import Model', {'models', 'transforms'}),
        ('mmdiscard.errors', 'from .models import attach', {'errors', 'attach'}),
        ('mmdiscard.errors', 'from .models import Model', {'errors', '__init__', 'attach'}),
    ],
)
def test_circles_are_found(place, name, statement, circle):
    found = cycle(LEGAL | {name: place.format(statement)})
    assert {module.rpartition('.')[2] for module in found} == circle
