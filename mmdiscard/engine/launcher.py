"""Processes of a distributed run, also where there is no GPU."""

import argparse
import os

from mmengine.config import Config
from mmengine.device import get_device
from torch import distributed

from ..errors import MMDiscardError


def prepare_launcher(cfg: Config, args: argparse.Namespace) -> None:
    """Set up ``cfg`` and the process for ``args.launcher``, also where there is no GPU.

    MMEngine selects a GPU when it starts a process group and gives its wrapper one too. Without a
    GPU the group is started here, before the Runner would, and the wrapper is told to use none.

    Raises:
        MMDiscardError: A launcher other than ``pytorch`` without a GPU.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    if args.launcher == 'none' or not on_cpu():
        return
    if args.launcher != 'pytorch':
        raise MMDiscardError(
            f'--launcher {args.launcher} needs GPUs; on CPUs use --launcher pytorch, with '
            'processes that torch.distributed.run started, as tools/dist_test.sh does'
        )
    if 'RANK' not in os.environ:
        raise MMDiscardError(
            '--launcher pytorch is for processes that torch.distributed.run started, as '
            'tools/dist_test.sh does'
        )
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    wrapper = cfg.get('model_wrapper_cfg') or dict(type='MMDistributedDataParallel')
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)


def on_cpu() -> bool:
    return get_device() == 'cpu'


def leave_process_group() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
