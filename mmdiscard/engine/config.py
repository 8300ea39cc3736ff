"""Read a config, check it, and apply the command line flags of a test."""

import argparse
import os
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS

from .. import compat
from ..errors import MissingPackageError, MMDiscardError
from ..utils import innermost_datasets, type_name
from .checkpoint import is_local
from .launcher import on_cpu

DISCARD_TTA = {'mmpretrain': 'mmdiscard.DiscardClsTTA', 'mmseg': 'mmdiscard.DiscardSegTTA'}
PLAIN_TTA = {'mmpretrain': 'mmpretrain.AverageClsScoreTTA', 'mmseg': 'mmseg.SegTTAModel'}


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and apply the common flags.

    ``--cfg-options`` come first, so that a flag always wins and ``model.*`` means the config's own
    model, whether or not ``--tta`` wraps it later.

    Raises:
        MMDiscardError: The file is missing, cannot be read, an override does not fit, or the run
            would overwrite the config.
        MissingPackageError: The config is made for a package that is not installed.
    """
    cfg = read_config(args.config)
    apply_options(cfg, args.cfg_options, args.config)
    check_hook_options(cfg)
    package_of(cfg, args.config)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    if Path(cfg.work_dir).resolve() == Path(cfg.filename).resolve().parent:
        # MMEngine's Runner writes the resolved config into the work dir, under the same name.
        raise MMDiscardError(
            f'the work dir {cfg.work_dir} is the folder of {args.config}: the '
            'run would overwrite the config; choose another --work-dir'
        )
    prepare_dataloaders(cfg, args.no_pin_memory)
    return cfg


def apply_options(cfg: Config, options: Mapping | None, path: str) -> None:
    """Apply the overrides of ``--cfg-options``.

    Args:
        cfg: changed in place.
        options: value by dotted key.
        path: of the config, for the message.

    Raises:
        MMDiscardError: An override does not fit.
    """
    try:
        cfg.merge_from_dict(options or {})
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise MMDiscardError(f'--cfg-options do not fit {path}: {error}') from error
    if not isinstance(cfg.get('custom_hooks') or [], list | tuple):
        raise MMDiscardError(
            f'--cfg-options do not fit {path}: it has no list custom_hooks with positions to change'
        )


def check_hook_options(cfg: Config) -> None:
    """Check that the config's `SubsamplingSearchHook` has no option that it does not know.

    Raises:
        MMDiscardError: names the option.
    """
    hook = search_hook_of(cfg) or {}
    known = signature(HOOKS.get('mmdiscard.SubsamplingSearchHook')).parameters
    unknown = [name for name in hook if name not in (*known, 'type', 'priority')]
    if unknown and type_name(hook) == 'SubsamplingSearchHook':  # not of a subclass
        near = get_close_matches(unknown[0], known, n=1)
        raise MMDiscardError(
            f'SubsamplingSearchHook has no option {unknown[0]!r}; '
            + (f'did you mean {near[0]!r}?' if near else f'it has {", ".join(known)}')
        )


def read_config(path: str) -> Config:
    """``Config.fromfile`` with one clear error; the path may be a name, ``mmseg::FOLDER/FILE.py``.

    Raises:
        MMDiscardError: The file is missing or cannot be read.
        MissingPackageError: It is in, inherits from, or imports a package that is not installed.
    """
    try:
        return Config.fromfile(config_file(path))
    except ImportError as error:
        raise MissingPackageError(
            f'{path}: {error}. Install it: {compat.install_hint()}'
        ) from error
    except (OSError, SyntaxError, NameError, KeyError, TypeError) as error:
        raise MMDiscardError(f'cannot read {path}: {type(error).__name__}: {error}') from error


def config_file(path: str) -> str:
    """The file of a config: ``path`` itself, or where an installed package has ``PACKAGE::PATH``.

    MM packages carry their configs in the folder ``.mim/configs``.

    Raises:
        MMDiscardError: There is no such file.
        MissingPackageError: The package is not installed.
    """
    package, separator, name = path.partition('::')
    if not separator:
        if not os.path.isfile(path):
            raise MMDiscardError(f'config not found: {path}')
        return path
    if package in compat.PACKAGES:
        compat.require(package, f'{path} is a config of it')
    found = find_spec(package) if package.isidentifier() else None
    configs = Path(found.origin).parent / '.mim' / 'configs' if found and found.origin else None
    if configs is None or not configs.is_dir():
        raise MMDiscardError(f'config not found: {path}: no package {package!r} with configs')
    if not (configs / name).is_file():
        raise MMDiscardError(f'config not found: {path}{_similar(package, name, configs)}')
    return str(configs / name)


def _similar(package: str, name: str, configs: Path) -> str:
    """A suggestion of similar names, appended to an error message."""
    names = [file.relative_to(configs).as_posix() for file in configs.glob('*/*.py')]
    by_file = {Path(one).name: one for one in names}
    near = get_close_matches(Path(name).with_suffix('.py').name, by_file, n=2, cutoff=0.8)
    listed = ', '.join(f'{package}::{by_file[one]}' for one in near)
    return listed and f'; similar names: {listed}'


def package_of(cfg: Config, path: str) -> str:
    """The package that the config is made for, 'mmpretrain' or 'mmseg', by its ``default_scope``.

    Raises:
        MMDiscardError: It is made for neither.
        MissingPackageError: That package is not installed, or too old.
    """
    scope = cfg.get('default_scope')
    if scope not in ('mmpretrain', 'mmseg'):
        raise MMDiscardError(
            f"{path}: default_scope is {scope!r}; it has to be 'mmpretrain' or 'mmseg', as it is "
            'in every config that inherits from one of theirs'
        )
    compat.require(scope, f'{path} is made for it')
    return scope


def prepare_dataloaders(cfg: Config, no_pin_memory: bool = False) -> None:
    """Set what the package and PyTorch require of every data loader in ``cfg``.

    MMPretrain's models want images stacked by the collate function, and its own tools set that,
    not its configs. Options of worker processes are an error in PyTorch when there are none.
    """
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(field)
        if not loader:
            continue
        if cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('pin_memory', not on_cpu())
            loader.setdefault('collate_fn', dict(type='default_collate'))
        if no_pin_memory:
            loader.pin_memory = False
        if not loader.get('num_workers'):
            loader.persistent_workers = False
            loader.pop('prefetch_factor', None)


def check_test_set(cfg: Config) -> None:
    """Check that ``cfg`` says what to test on, and that the folder it names is there.

    Raises:
        MMDiscardError: A section is missing, or the data folder is.
    """
    missing = [f for f in ('test_dataloader', 'test_evaluator', 'test_cfg') if cfg.get(f) is None]
    if missing:
        raise MMDiscardError(f'the config has no {", ".join(missing)}: nothing to test on')
    for dataset in innermost_datasets(cfg.test_dataloader.dataset):
        root = dataset.get('data_root')
        if root and is_local(root) and not os.path.isdir(root):
            raise MMDiscardError(
                f'data folder not found: {root} (set it with '
                '--cfg-options test_dataloader.dataset.data_root=...)'
            )


def is_discard_type(config: dict) -> bool:
    """Whether the ``type`` of a config, a name or a class, is something of mmdiscard."""
    kind = config.get('type')
    if isinstance(kind, type):
        return kind.__module__.partition('.')[0] == 'mmdiscard'
    return str(kind).startswith('mmdiscard.')


def search_hook_of(cfg: Config) -> ConfigDict | None:
    """The config's `SubsamplingSearchHook`, to be read or changed; None if it has none."""
    hooks = cfg.get('custom_hooks') or []
    return next((h for h in hooks if type_name(h).endswith('SubsamplingSearchHook')), None)


def asks_uncertainty(cfg: Config) -> bool:
    """Whether the config's hook stores how sure predictions are."""
    hook = search_hook_of(cfg) or {}
    return bool(hook.get('uncertainty') or hook.get('uncertainty_dir'))


def add_import(cfg: Config) -> None:
    """Let ``cfg`` import mmdiscard where it is run again."""
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    names = imports['imports']
    names = [names] if isinstance(names, str) else list(names)
    if 'mmdiscard' not in names:
        cfg.custom_imports = dict(imports, imports=[*names, 'mmdiscard'])


def add_search_hook(cfg: Config, **settings: Any) -> ConfigDict:
    """Add a `SubsamplingSearchHook` to ``cfg``, and the import that registers it."""
    add_import(cfg)
    hook = ConfigDict(type='mmdiscard.SubsamplingSearchHook', **settings)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    return cfg.custom_hooks[-1]


def make_plain(cfg: Config) -> None:
    """Take mmdiscard out of ``cfg``: none of its hooks, and the package's own TTA model."""
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if not is_discard_type(hook)]
    if is_discard_type(cfg.get('tta_model') or {}):
        cfg.tta_model = ConfigDict(type=PLAIN_TTA[cfg.default_scope])


def use_tta(cfg: Config) -> None:
    """Test the config's views merged by its TTA model, instead of one view.

    Where a config names no TTA model its package's own is used; where a classifier's config names
    no views, the image and its mirror image. Of several data sets, as in a ``ConcatDataset``, all
    are read in these views. Where the config's hook asks for the uncertainty, mmdiscard's TTA model
    stands in for the package's own: it merges to the same prediction.

    Raises:
        MMDiscardError: if a segmentor's config has no ``tta_pipeline``, or if a data set has no
            pipeline that could be replaced.
    """
    views = cfg.get('tta_pipeline')
    if views is None and cfg.default_scope != 'mmpretrain':
        raise MMDiscardError('--tta needs a `tta_pipeline` in the config, and it has none')
    for dataset in innermost_datasets(cfg.test_dataloader.dataset):
        if 'pipeline' not in dataset:
            raise MMDiscardError(
                f'--tta replaces the pipeline of the test set, and {dataset.get("type")} has none '
                'in the config'
            )
        dataset.pipeline = views or mirrored(dataset.pipeline)
    plain = PLAIN_TTA[cfg.default_scope]
    tta_model = cfg.get('tta_model') or ConfigDict(type=plain)
    if asks_uncertainty(cfg) and tta_model.type in (plain, plain.rpartition('.')[2]):
        tta_model = ConfigDict(tta_model, type=DISCARD_TTA[cfg.default_scope])
    cfg.model = ConfigDict(tta_model, module=cfg.model)


def mirrored(pipeline: list[dict]) -> list[dict]:
    """``pipeline`` with its last step, the packing, done on the image and on its mirror image."""
    views = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
    return [*pipeline[:-1], dict(type='TestTimeAug', transforms=[views, [pipeline[-1]]])]
