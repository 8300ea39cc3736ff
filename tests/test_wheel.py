"""The wheel: the package with configs and tools in `.mim`, and nothing else; it works alone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ('mmdiscard', 'benchmarks', 'tests', 'tools', 'configs')
FILES = ('pyproject.toml', 'setup.cfg', 'setup.py', 'README.md', 'LICENSE', 'model-index.yml')
MIM = 'mmdiscard/.mim'
OWN_CONFIG = """
_base_ = 'mmdiscard::demo/classifier_greedy-b4.py'
custom_hooks = [dict(_base_.custom_hooks[0], search=dict(type='SpreadStates', budget=2))]
test_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(data_root={data!r}))
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel that is built from a copy, so that no old build folder adds to it."""
    copy, out = tmp_path_factory.mktemp('checkout'), tmp_path_factory.mktemp('wheel')
    for name in SOURCES:
        shutil.copytree(
            ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns('*.pyc')
        )
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, '-m', 'pip', 'wheel', str(copy), '--wheel-dir', str(out)]
    command += ['--no-deps', '--no-build-isolation', '--no-index', '--quiet']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob('*.whl')
    return zipfile.ZipFile(path)


def files(folder: Path, *patterns: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for one in patterns for path in folder.rglob(one)}


def test_the_package_is_complete(wheel):
    modules = files(ROOT / 'mmdiscard', '*.py')
    assert modules | {'mmdiscard/py.typed'} <= set(wheel.namelist())


@pytest.mark.parametrize('folder', [f'{MIM}/', '.dist-info/.mim/'])
def test_it_carries_configs_and_tools(wheel, folder):
    carried = {name.partition(folder)[2] for name in wheel.namelist() if folder in name}
    configs = files(ROOT / 'configs', '*.py', '*.yml')
    tools = files(ROOT / 'tools', '*.py', '*.sh')
    assert carried == configs | tools | {'model-index.yml', 'configs/README.md'}


def test_nothing_else_is_in_it(wheel):
    tops = {name.split('/')[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith('.dist-info')} == {'mmdiscard'}


def test_it_works_outside_of_a_checkout(wheel, scenes, demo_model, tmp_path):
    """Unpacked, which is what installing does with it; the tool is what `mim test` runs."""
    site, work = tmp_path / 'site', tmp_path / 'work'
    wheel.extractall(site)
    work.mkdir()
    (work / 'own.py').write_text(OWN_CONFIG.format(data=str(scenes / 'classification')))
    checkpoint = demo_model('classifier')[1]
    done = subprocess.run(
        [sys.executable, str(site / MIM / 'tools/test.py'), 'own.py', checkpoint],
        cwd=work,
        env=os.environ | {'PYTHONPATH': str(site), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'states per image: 2.00 on average' in done.stdout
    assert {path.name for path in work.iterdir()} == {'own.py', 'work_dirs'}
