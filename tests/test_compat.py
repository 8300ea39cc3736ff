"""Both distributions of the stack, simulated through package metadata and the import machinery."""

import re
import subprocess
import sys
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config

from mmdiscard import compat
from mmdiscard.engine.config import read_config
from mmdiscard.errors import MissingPackageError, MMDiscardError

SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'

OWN_SEGFORMER = 'mmdiscard::ade20k/segformer_mit-b0_spread-b4_8xb2-160k_ade20k-512x512.py'
ROOT = Path(__file__).parents[1]


@pytest.fixture
def distributions(monkeypatch):
    """Makes the test believe that these, and only these, are installed: name -> version."""

    def install(installed: dict[str, str]) -> None:
        def version(name: str) -> str:
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return installed[name]

        importable = {
            module
            for module, (_, names) in compat.PACKAGES.items()
            for name in names
            if name in installed
        }
        monkeypatch.setattr(compat.metadata, 'version', version)
        monkeypatch.setattr(compat, 'is_importable', importable.__contains__)
        monkeypatch.setattr(compat, 'sys', type('NoModules', (), {'modules': {}}))

    return install


@pytest.mark.parametrize('name', [SEGFORMER, OWN_SEGFORMER])
def test_scope_of_another_package_is_found(tmp_path, name):
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{name}'\n")
    assert Config.fromfile(path).model.type == 'EncoderDecoder'
    assert get_config(name).model.type == 'EncoderDecoder'
    assert read_config(name).model.type == 'EncoderDecoder'


@pytest.mark.parametrize(
    ('installed', 'name'),
    [
        ({'mmengine': '0.10.7', 'mmsegmentation': '1.2.2'}, 'mmsegmentation'),
        ({'onedl-mmengine': '0.10.12', 'onedl-mmsegmentation': '1.4.2'}, 'mmseg'),
        ({'mmengine': '0.10.7'}, 'mmsegmentation'),
    ],
)
def test_only_onedls_mmseg_is_mapped_anew(distributions, monkeypatch, installed, name):
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    distributions(installed)
    compat.map_scopes_to_installed_names()
    assert MODULE2PACKAGE['mmseg'] == name


@pytest.mark.parametrize(
    'installed',
    [
        {'mmengine': '0.10.0'},
        {'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6', 'onedl-mmpretrain': '1.3.6'},
        {
            'mmengine': '0.10.7',
            'mmcv': '2.0.0rc4',
            'mmsegmentation': '1.2.2',
            'mmpretrain': '1.2.0',
        },
    ],
)
def test_supported(distributions, installed):
    distributions(installed)
    compat.check_versions()


@pytest.mark.parametrize(
    ('installed', 'said'),
    [
        ({'mmcv': '2.1.0'}, 'mmengine is not installed'),
        ({'mmengine': '0.9.1'}, 'mmengine 0.9.1 is too old'),
        ({'mmengine': '0.10.7', 'mmcv': '1.7.2'}, 'mmcv 1.7.2 is too old'),
        ({'mmengine': '0.10.7', 'mmpretrain': '1.1.1'}, 'mmpretrain >= 1.2'),
        ({'mmengine': '0.10.7', 'mmsegmentation': '1.1.2'}, 'mmseg >= 1.2'),
    ],
)
def test_unsupported(distributions, installed, said):
    distributions(installed)
    with pytest.raises(MissingPackageError, match=said) as raised:
        compat.check_versions()
    assert str(raised.value).endswith(f': {compat.OPENMMLAB}')


@pytest.mark.parametrize(
    ('installed', 'hint'),
    [
        ({'onedl-mmengine': '0.10.12'}, compat.ONEDL),
        ({'mmengine': '0.10.7', 'mmcv': '2.1.0'}, compat.OPENMMLAB),
        ({}, f"{compat.ONEDL} or, for OpenMMLab's own releases, {compat.OPENMMLAB}"),
    ],
)
def test_the_hint_names_the_distribution_that_is_there(distributions, installed, hint):
    distributions(installed)
    assert compat.install_hint() == hint


@pytest.mark.parametrize('extra', ['onedl', 'openmmlab'])
def test_the_hint_names_what_the_extra_has(extra):
    setup = ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    wanted = setup['options.extras_require'][extra].split()
    names = {requirement_name(one) for one in wanted} - {'numpy'}
    command = getattr(compat, extra.upper()).replace("'", '').split()[2:]
    assert {requirement_name(one) for one in command} == names


def requirement_name(requirement: str) -> str:
    return re.split('[<>=]', requirement)[0]


def test_require_says_why(distributions):
    distributions({'mmengine': '0.10.7'})
    with pytest.raises(ImportError, match='mmseg is not installed, but a.py tests a segmentor'):
        compat.require('mmseg', 'a.py tests a segmentor')
    assert issubclass(MissingPackageError, MMDiscardError)


def test_a_checkout_without_metadata_counts_as_recent(distributions, monkeypatch):
    distributions({})
    monkeypatch.setattr(compat, 'is_importable', lambda package: True)
    compat.check_versions()


def test_importing_mmdiscard_imports_neither_package():
    code = "import sys, mmdiscard; print([m for m in ('mmpretrain', 'mmseg') if m in sys.modules])"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_a_command_without_mmengine_ends_in_one_line():
    command = [sys.executable, '-S', '-m', 'mmdiscard.test', 'a.py', 'a.pth']  # no site-packages
    path = {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=path, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith('mmdiscard: error: mmengine is not installed')
    assert done.returncode == 1
