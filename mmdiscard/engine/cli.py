"""What every command-line tool does before it has a Runner: flags, config, checks, launcher.

The tools share these so that a config means the same to each of them, and so that a mistake of the
user ends in one line instead of a traceback.
"""

import argparse
import os
import re
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed

from .. import compat
from ..errors import MissingPackageError, MMDiscardError
from .checkpoint import WeightCheck

PLAIN_TTA = {'mmpretrain': 'mmpretrain.AverageClsScoreTTA', 'mmseg': 'mmseg.SegTTAModel'}
# Exit code of a run that ended in a user's error; argparse uses the same.
USER_ERROR = 2
# Seconds for a launcher to end the other processes once the first has failed.
PATIENCE = 10


# ----------------------------------------------------------------------------------------- flags
def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that MMPretrain's and MMSegmentation's tools have in common."""
    parser.add_argument('--work-dir', help='where logs and metrics go (default: work_dirs/CONFIG)')
    add_config_options(parser)
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin host memory')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started (pytorch also works on CPUs)',
    )
    # Older launchers of PyTorch pass the rank as a flag, newer ones set LOCAL_RANK.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, as every MM tool has it."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, also inside lists: custom_hooks.0.search.budget=4, '
        'key="[a,b]", key="[(a,b),(c,d)]" (quoted, without spaces)',
    )


# ---------------------------------------------------------------------------------------- config
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
    package_of(cfg, args.config)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    if Path(cfg.work_dir).resolve() == Path(args.config).resolve().parent:
        # MMEngine's Runner writes the resolved config into the work dir, under the same name.
        raise MMDiscardError(
            f'the work dir {cfg.work_dir} is the folder of {args.config}: the '
            'run would overwrite the config; choose another --work-dir'
        )
    prepare_dataloaders(cfg, args.no_pin_memory)
    return cfg


def apply_options(cfg: Config, options: Mapping | None, path: str) -> None:
    """Override settings as ``--cfg-options`` say.

    Raises:
        MMDiscardError: An override does not fit.
    """
    try:
        cfg.merge_from_dict(options or {})
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise MMDiscardError(f'--cfg-options do not fit {path}: {error}') from error


def read_config(path: str) -> Config:
    """``Config.fromfile`` with one clear error.

    Raises:
        MMDiscardError: The file is missing or cannot be read.
        MissingPackageError: It inherits from, or imports, a package that is not installed.
    """
    if not os.path.isfile(path):
        raise MMDiscardError(f'config not found: {path}')
    try:
        return Config.fromfile(path)
    except ImportError as error:
        raise MissingPackageError(f'{path}: {error}. Install it: {compat.INSTALL_HINT}') from error
    except (OSError, SyntaxError, NameError, KeyError, TypeError) as error:
        raise MMDiscardError(f'cannot read {path}: {type(error).__name__}: {error}') from error


def package_of(cfg: Config, path: str) -> str:
    """Which package the config is made for, 'mmpretrain' or 'mmseg', by its ``default_scope``.

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
    """Make every data loader of ``cfg`` one that its package and PyTorch accept.

    MMPretrain's models want images stacked by the collate function, and its own tools set that,
    not its configs. Options of worker processes are an error in PyTorch when there are none.
    """
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(field)
        if not loader:
            continue
        if cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('pin_memory', not _on_cpu())
            loader.setdefault('collate_fn', dict(type='default_collate'))
        if no_pin_memory:
            loader.pin_memory = False
        if not loader.get('num_workers'):
            loader.persistent_workers = False
            loader.pop('prefetch_factor', None)


# ------------------------------------------------------------------------------ mmdiscard on, off
def is_discard_type(config: dict) -> bool:
    """Whether the ``type`` of a config, a name or a class, is something of mmdiscard."""
    kind = config.get('type')
    if isinstance(kind, type):
        return kind.__module__.partition('.')[0] == 'mmdiscard'
    return str(kind).startswith('mmdiscard.')


def make_plain(cfg: Config) -> None:
    """Take mmdiscard out of ``cfg``: none of its hooks, and the package's own TTA model."""
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if not is_discard_type(hook)]
    if is_discard_type(cfg.get('tta_model') or {}):
        cfg.tta_model = ConfigDict(type=PLAIN_TTA[cfg.default_scope])


def use_tta(cfg: Config) -> None:
    """Test the config's views merged by its TTA model, instead of one view.

    Where a config names no TTA model its package's own is used; where a classifier's config names
    no views, the image and its mirror image.

    Raises:
        MMDiscardError: A segmentor's config has no ``tta_pipeline``.
    """
    dataset = test_dataset(cfg)
    if 'tta_pipeline' not in cfg:
        if cfg.default_scope != 'mmpretrain':
            raise MMDiscardError('--tta needs a `tta_pipeline` in the config, and it has none')
        cfg.tta_pipeline = mirrored(dataset.pipeline)
    tta_model = cfg.get('tta_model') or ConfigDict(type=PLAIN_TTA[cfg.default_scope])
    cfg.model = ConfigDict(tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def mirrored(pipeline: list[dict]) -> list[dict]:
    """``pipeline`` with its last step, the packing, done on the image and on its mirror image."""
    views = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
    return [*pipeline[:-1], dict(type='TestTimeAug', transforms=[views, [pipeline[-1]]])]


def test_dataset(cfg: Config) -> ConfigDict:
    """The config of the test set, looked for inside wrappers such as ``RepeatDataset``."""
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset


# ---------------------------------------------------------------------------------------- checks
def is_local(path: str) -> bool:
    """Whether ``path`` is a plain file path, not a URL nor one of MMEngine's ``open-mmlab://``."""
    return re.match(r'\w[\w+.-]*:(//|s3:)', path) is None


def check_checkpoint(path: str) -> None:
    """Check that ``path`` is there and is a file that ``torch.save`` wrote, without loading it.

    Whether its weights are this model's is checked when they are loaded.

    Raises:
        MMDiscardError: It is missing, a folder, cut short, or something else.
    """
    if not is_local(path):
        return
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        what = 'is a folder' if os.path.isdir(path) else 'not found'
        raise MMDiscardError(f'checkpoint {what}: {path}')
    if not _is_torch_file(path):
        raise MMDiscardError(
            f'not a checkpoint: {path} is not a file written by torch.save, or is cut short'
        )


def _is_torch_file(path: str) -> bool:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('/data.pkl') for name in archive.namelist())
    with open(path, 'rb') as file:  # before PyTorch 1.6: a bare pickle, as many published ones
        return file.read(2) == b'\x80\x02'


def check_test_set(cfg: Config) -> None:
    """Check that ``cfg`` says what to test on, and that the folder it names is there.

    Raises:
        MMDiscardError: A section is missing, or the data folder is.
    """
    missing = [f for f in ('test_dataloader', 'test_evaluator', 'test_cfg') if cfg.get(f) is None]
    if missing:
        raise MMDiscardError(f'the config has no {", ".join(missing)}: nothing to test on')
    root = test_dataset(cfg).get('data_root')
    if root and is_local(root) and not os.path.isdir(root):
        raise MMDiscardError(
            f'data folder not found: {root} (set it with '
            '--cfg-options test_dataloader.dataset.data_root=...)'
        )


# -------------------------------------------------------------------------------------- launcher
def prepare_launcher(cfg: Config, args: argparse.Namespace) -> None:
    """Set up ``cfg`` and the process for ``args.launcher``, also where there is no GPU.

    MMEngine selects a GPU when it starts a process group and gives its wrapper one too. Without a
    GPU the group is started here, before the Runner would, and the wrapper is told to use none.

    Raises:
        MMDiscardError: A launcher other than ``pytorch`` without a GPU.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    if args.launcher == 'none' or not _on_cpu():
        return
    if args.launcher != 'pytorch':
        raise MMDiscardError(
            f'--launcher {args.launcher} needs GPUs; on CPUs start the processes with '
            'tools/dist_test.sh, which uses --launcher pytorch'
        )
    if 'RANK' not in os.environ:
        raise MMDiscardError('--launcher pytorch is for processes that tools/dist_test.sh started')
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    wrapper = cfg.get('model_wrapper_cfg') or dict(type='MMDistributedDataParallel')
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)


def _on_cpu() -> bool:
    return get_device() == 'cpu'


def build_runner(cfg: Config, check_weights: bool = True) -> Runner:
    """The Runner that ``cfg`` describes, of the type that it names.

    It refuses weights of another model, also where mmdiscard's hook, which does too, was left out,
    unless ``check_weights`` is False.

    Raises:
        MMDiscardError: A ``type`` in the config names nothing that is registered.
    """
    try:
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except KeyError as error:
        if 'registry' not in str(error):
            raise
        raise MMDiscardError(
            f'{error.args[0]} Mind the spelling of `type`, and whether `custom_imports` names the '
            'package that has it'
        ) from error
    if check_weights:
        runner.register_hook(WeightCheck(), priority='VERY_HIGH')
    return runner


# ---------------------------------------------------------------------------------------- errors
def run(main: Callable[[], None]) -> None:
    """Run a tool's ``main`` and exit; a user's error is one line and exit code 2.

    Only what mmdiscard itself found wrong is shortened. Anything else keeps its traceback. Of many
    processes the first one speaks for all. Another one that is still there a while later has met
    something of its own: where all fail, the launcher ends it before.
    """
    try:
        main()
    except MMDiscardError as error:
        rank = os.environ.get('RANK', '0')
        if rank != '0':
            time.sleep(PATIENCE)
        process = '' if rank == '0' else f' (process {rank})'
        print(f'mmdiscard: error{process}: {_in_one_line(error)}', file=sys.stderr)
        sys.exit(USER_ERROR)
    finally:
        _leave_process_group()


def _in_one_line(error: MMDiscardError) -> str:
    """The message; of one that comes from a worker of a data loader, without its traceback."""
    own = re.split(r'mmdiscard\.errors\.\w+: ', str(error))[-1]
    return ' '.join(own.split())


def _leave_process_group() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
