"""Both distributions of the stack, simulated through package metadata and the import machinery."""

import subprocess
import sys
from importlib import metadata

import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config

from mmdiscard import compat
from mmdiscard.errors import MissingPackageError, MMDiscardError

SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'


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


def test_scope_of_another_package_is_found(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{SEGFORMER}'\n")
    assert Config.fromfile(path).model.type == 'EncoderDecoder'
    assert get_config(SEGFORMER).model.type == 'EncoderDecoder'


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
    assert "pip install 'mmdiscard[onedl]'" in str(raised.value)
    assert '[openmmlab]' in str(raised.value)


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
