"""What the pages say: examples run, links lead somewhere, names exist.

A fence of ``python run`` is executed, all of a page one after the other in one namespace, from the
root of the checkout. A fence of ``python config`` is read as a config file that stands beside the
reader's own ``my_config.py``. Other fences are only read for the names of classes.
"""

import ast
import re
from pathlib import Path

import mmpretrain.datasets  # noqa: F401  (they register)
import mmpretrain.models  # noqa: F401
import mmseg.datasets  # noqa: F401
import mmseg.models  # noqa: F401
import pytest
from mmengine import registry as mmengine_registry
from mmpretrain import registry as mmpretrain_registry
from mmseg import registry as mmseg_registry

import mmdiscard.tta  # noqa: F401
from mmdiscard import registry
from mmdiscard.engine.config import read_config
from mmdiscard.registry import Registry

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / 'docs').glob('*.md'))
RESULTS = sorted((ROOT / 'benchmarks').glob('*/RESULTS.md'))
PAGES = [ROOT / 'README.md', *DOCS, *RESULTS]
FENCE = re.compile(r'^```(.*)\n([\s\S]*?)^```$', re.MULTILINE)


def blocks(page: Path, kind: str) -> list[str]:
    return [text for info, text in FENCE.findall(page.read_text()) if info.strip() == kind]


def with_blocks(kind: str) -> list:
    return [page for page in every_page() if blocks(page.values[0], kind)]


def every_page() -> list:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]


def slug(heading: str) -> str:
    """The anchor that a heading gets on a code host."""
    kept = re.sub(r'[^\w\- ]', '', heading.strip().lower())
    return kept.replace(' ', '-')


# -------------------------------------------------------------------------------------- examples
@pytest.fixture
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def registries_as_before():
    """Take out again what an example registers."""
    own = [value for value in vars(registry).values() if isinstance(value, Registry)]
    before = [(one, dict(one.module_dict)) for one in own]
    yield
    for one, modules in before:
        one.module_dict.clear()
        one.module_dict.update(modules)


@pytest.mark.parametrize('page', with_blocks('python run'))
def test_examples_run(page, from_the_root, registries_as_before):
    namespace = {'__name__': f'docs.{page.stem}'}
    for number, text in enumerate(blocks(page, 'python run'), 1):
        exec(compile(text, f'{page.name}, example {number}', 'exec'), namespace)


@pytest.mark.parametrize('page', with_blocks('python config'))
def test_config_examples_can_be_read(page, tmp_path):
    (tmp_path / 'my_config.py').write_text(
        "default_scope = 'mmseg'\ntta_model = dict(type='A', b=1)"
    )
    for text in blocks(page, 'python config'):
        path = tmp_path / 'example.py'
        path.write_text(text)
        cfg = read_config(str(path))
        assert cfg.custom_imports.imports == ['mmdiscard']
        for hook in cfg.get('custom_hooks', []):
            mmengine_registry.HOOKS.build(hook)  # checks its settings as far as they go


# ----------------------------------------------------------------------------------------- names
@pytest.mark.parametrize('page', every_page())
def test_classes_named_in_configs_exist(page):
    modules = (registry, mmengine_registry, mmpretrain_registry, mmseg_registry)
    known = set()
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Registry):
                known |= value.module_dict.keys()
    named = re.findall(r"type='([\w.]+)'", page.read_text())
    assert {name for name in named if name.rpartition('.')[2] not in known} == set()


# ----------------------------------------------------------------------------------------- links
@pytest.mark.parametrize('page', every_page())
def test_links_lead_somewhere(page):
    text = FENCE.sub('', page.read_text())
    targets = re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if re.match(r'[a-z]+:', target):
            continue
        name, _, anchor = target.partition('#')
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f'{page.name} links to {target}'
        if anchor:
            headings = re.findall(r'^#+ (.+)$', FENCE.sub('', path.read_text()), re.MULTILINE)
            assert anchor in map(slug, headings), f'{page.name} links to {target}'


def test_every_page_is_reached():
    linked = ' '.join(page.read_text() for page in PAGES)
    for page in DOCS:
        assert re.search(rf'\]\((docs/)?{page.name}', linked), f'nothing links to {page.name}'
    for page in RESULTS:
        assert f'](../{page.relative_to(ROOT)})' in linked, f'nothing links to {page}'


# ---------------------------------------------------------------------------------------- errors
def test_errors_are_worded_as_the_code_words_them():
    """Of all runs of three words most stand in a string of the code; the rest is filled in."""
    folders = ('mmdiscard', 'tools', 'benchmarks')
    files = [path for name in folders for path in (ROOT / name).rglob('*.py')]
    said = '\n'.join(
        node.value.replace('`', '')
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    table = (ROOT / 'docs' / 'errors.md').read_text().partition('## Not an error')[0]
    messages = re.findall(r'^\| (`.+?) \|', table, re.MULTILINE)
    assert len(messages) > 30
    for message in messages:
        words = re.findall(r'[a-z]+', message)
        threes = [' '.join(three) for three in zip(words, words[1:], words[2:], strict=False)]
        threes = [three for three in threes if three in message]
        if len(threes) > 3 and "(MMEngine's" not in message:
            assert sum(three in said for three in threes) >= 0.75 * len(threes), message
