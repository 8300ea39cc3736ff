"""Compatibility with both distributions of the OpenMMLab stack.

OpenMMLab's own releases and OneDL's maintained builds share their import names (``mmengine``,
``mmcv``, ``mmpretrain``, ``mmseg``) but not the names they are installed under. Two things depend
on the installed name and are dealt with here, once:

* MMEngine finds ``_base_ = 'mmseg::...'`` through the distribution name ``mmsegmentation``, which
  OneDL's builds do not have. ``_base_`` is resolved before ``custom_imports``, so the cure has to
  be in place before any config is read: importing this module applies it.
* Versions are read from package metadata under whichever name is installed, so that checking them
  does not import mmpretrain or mmseg, which takes seconds and which a user may not even have.
"""

import re
import sys
from importlib import metadata
from importlib.util import find_spec

from .errors import MissingPackageError

# Import name -> (lowest supported version, names it may be installed under).
PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    'mmengine': ('0.10', ('mmengine', 'onedl-mmengine', 'mmengine-lite')),
    'mmcv': ('2.0.0', ('mmcv', 'onedl-mmcv', 'mmcv-lite')),
    'mmpretrain': ('1.2', ('mmpretrain', 'onedl-mmpretrain')),
    'mmseg': ('1.2', ('mmsegmentation', 'onedl-mmsegmentation')),
}
REQUIRED = ('mmengine',)
# What each distribution of the stack is installed with; `setup.cfg` has the same as extras.
ONEDL = 'pip install onedl-mmengine onedl-mmcv onedl-mmpretrain onedl-mmsegmentation torchvision'
OPENMMLAB = "pip install mmengine 'mmcv<2.2' mmpretrain mmsegmentation ftfy regex torchvision"


def is_importable(package: str) -> bool:
    """Whether ``package`` could be imported, found out without importing it."""
    return package in sys.modules or find_spec(package) is not None


def installed_version(package: str) -> str | None:
    """Version of an ``mm*`` package under any of its distribution names; None if it has none.

    A source checkout on the path may be importable and yet have no metadata.
    """
    if package in sys.modules:
        return getattr(sys.modules[package], '__version__', None)
    return next(filter(None, map(_metadata_version, PACKAGES[package][1])), None)


def install_hint() -> str:
    """The command that installs all MM packages, of the distribution that is there already."""
    names = {name for _, names in PACKAGES.values() for name in names if _metadata_version(name)}
    if not names:
        return f"{ONEDL} or, for OpenMMLab's own releases, {OPENMMLAB}"
    return ONEDL if any(name.startswith('onedl-') for name in names) else OPENMMLAB


def _metadata_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without trailing zeros: '2.1.0rc1+cu118' -> (2, 1)."""
    matched = re.match(r'\d+(\.\d+)*', version)
    numbers = [int(part) for part in matched.group().split('.')] if matched else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def require(package: str, why: str) -> None:
    """Check that an ``mm*`` package is present and recent enough.

    ``why`` says what needs it, for the message: 'configs/imagenet/x.py tests a classifier'.

    Raises:
        MissingPackageError: It is absent or too old. An ``ImportError``, and one line long.
    """
    lowest = PACKAGES[package][0]
    if not is_importable(package):
        raise MissingPackageError(
            f'{package} is not installed, but {why}. Install it: {install_hint()}'
        )
    version = installed_version(package)
    if version is not None and _release(version) < _release(lowest):
        raise MissingPackageError(
            f'{package} {version} is too old: {why}, which needs '
            f'{package} >= {lowest}. Update it: {install_hint()}'
        )


def check_versions() -> None:
    """Check what mmdiscard cannot do without, and the version of what is there besides.

    mmcv, mmpretrain and mmseg may be absent: each is asked for where it is needed.

    Raises:
        MissingPackageError: MMEngine is absent, or one of the four is too old.
    """
    for package in PACKAGES:
        if package in REQUIRED or is_importable(package):
            require(package, 'mmdiscard is built on it')


def map_scopes_to_installed_names() -> None:
    """Let ``mmseg::`` find its configs where no distribution is called ``mmsegmentation``.

    MMEngine accepts an import name in the place of a distribution name, both when it resolves
    ``_base_`` and in ``mmengine.hub.get_config``. With OpenMMLab's own releases nothing changes;
    without mmseg neither, so that MMEngine's message still names what to install.

    ``mmdiscard::`` is made known as well. It names a module of the package: the folder of that is
    the package in use, where the one of the distribution may be another, or none (a checkout).
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE['mmdiscard'] = 'mmdiscard.version'
    if not _metadata_version(MODULE2PACKAGE['mmseg']) and is_importable('mmseg'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'


def build_own_configs_in_the_scope_of_the_run() -> None:
    """Let what a base config of ``mmdiscard::`` holds be looked up as if the user had written it.

    MMEngine looks up all of a base config in the package that the config is of. Those of mmdiscard
    are made of the parts of MMPretrain and MMSegmentation.
    """
    from mmengine.config import Config

    get_cfg_path = Config._get_cfg_path

    def with_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = get_cfg_path(cfg_path, filename)
        return path, None if scope == 'mmdiscard' else scope

    Config._get_cfg_path = staticmethod(with_scope)


if is_importable('mmengine'):  # otherwise `check_versions` says so in better words
    map_scopes_to_installed_names()
    build_own_configs_in_the_scope_of_the_run()
