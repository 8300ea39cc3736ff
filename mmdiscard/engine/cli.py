"""Common flags of the command-line tools, and user errors in one line."""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable

from mmengine.config import Config, DictAction
from mmengine.dist import barrier

from ..errors import MMDiscardError
from .checkpoint import check_checkpoint_file
from .config import load_config
from .data_subset import SPLITS
from .launcher import leave_process_group, prepare_launcher

#: exit code of a run that ended in a user's error; argparse uses the same
USER_ERROR = 2
#: seconds for a launcher to end the other processes once the first has failed
PATIENCE = 10


def tool_parser(description: str) -> argparse.ArgumentParser:
    """A parser of CONFIG and CHECKPOINT, which prints a description as it is."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or PACKAGE::FOLDER/FILE.py of MM packages')
    parser.add_argument('checkpoint', help='weights of the model: a file or a URL')
    return parser


def add_image_arguments(parser: argparse.ArgumentParser, images: int, split: str) -> None:
    """Add ``--images``, ``--split`` and ``--seed``, of labelled images.

    Args:
        parser: of the tool.
        images: default number of images.
        split: default split, ``'val'`` or ``'train'``.
    """
    parser.add_argument(
        '--images', type=int, default=images, help=f'number of labelled images (default: {images})'
    )
    parser.add_argument(
        '--split', choices=SPLITS, default=split, help=f'split of the images (default: {split})'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the draw (default: 0)')


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


def prepared_config(args: argparse.Namespace) -> Config:
    """The config of a tool for its launcher, with the common flags; the checkpoint is looked for.

    Raises:
        MMDiscardError: as `load_config`, `check_checkpoint_file` and `prepare_launcher`.
    """
    cfg = load_config(args)
    check_checkpoint_file(args.checkpoint)
    prepare_launcher(cfg, args)
    return cfg


def run(main: Callable[[], None]) -> None:
    """Run a tool's ``main`` and exit; a user's error is one line and exit code 2.

    What mmdiscard itself found wrong is shortened, and so is what the system says of a file or
    folder. Anything else keeps its traceback. Of many processes the first one speaks for all.
    Another one that is still there a while later has met something of its own: where all fail, the
    launcher ends it before.
    """
    try:
        main()
        barrier()  # gloo may abort a process that another one leaves early
    except (MMDiscardError, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise
        rank = os.environ.get('RANK', '0')
        if rank != '0':
            time.sleep(PATIENCE)
        process = '' if rank == '0' else f' (process {rank})'
        print(f'mmdiscard: error{process}: {_in_one_line(error)}', file=sys.stderr)
        sys.exit(USER_ERROR)
    finally:
        leave_process_group()


def _in_one_line(error: MMDiscardError | OSError) -> str:
    """The message; of one that comes from a worker of a data loader, without its traceback."""
    if isinstance(error, OSError):
        return f'{error.filename}: {error.strerror}'
    own = re.split(r'mmdiscard\.errors\.\w+: ', str(error))[-1]
    return ' '.join(own.split())
