"""The wheel: the package, and nothing of benchmarks, tests or tools."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ('mmdiscard', 'benchmarks', 'tests', 'tools', 'configs')
FILES = ('pyproject.toml', 'setup.cfg', 'README.md', 'LICENSE', 'conftest.py')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Names in a wheel that is built from a copy, so that no old build folder adds to it."""
    copy, out = tmp_path_factory.mktemp('checkout'), tmp_path_factory.mktemp('wheel')
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, '-m', 'pip', 'wheel', str(copy), '--wheel-dir', str(out)]
    command += ['--no-deps', '--no-build-isolation', '--no-index', '--quiet']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob('*.whl')
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_package_is_complete(wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmdiscard').rglob('*.py')}
    assert modules | {'mmdiscard/py.typed'} <= set(wheel)


def test_nothing_else_is_in_it(wheel):
    tops = {name.split('/')[0] for name in wheel}
    assert {top for top in tops if not top.endswith('.dist-info')} == {'mmdiscard'}
