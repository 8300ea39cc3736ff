"""Choose what to do at test time with a model: which views, which states, for which cost.

    python -m mmdiscard.tune CONFIG CHECKPOINT              # at most twice the time
    python -m mmdiscard.tune CONFIG CHECKPOINT --cost 1.5 --no-flip

Compares mirror images, sizes and states, alone and together, on labelled images that are not the
test set. Writes WORK_DIR/tuned.py, a config that tests by the best procedure whose gain is certain
(else the plain model), and table, JSON and figure into WORK_DIR/tune. After an interruption the
same command goes on with the next image.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from .engine import cli
from .engine.config import apply_options, read_config
from .engine.search_flags import parse_groups
from .tuning.tune import TuneRequest, tune
from .tuning.tuning_images import TuningImages
from .utils import report


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.tool_parser(__doc__)
    parser.add_argument(
        '--cost', type=float, default=2.0, help='plain forwards per image, at most (default: 2)'
    )
    cli.add_image_arguments(parser, images=200, split='val')
    parser.add_argument(
        '--no-flip',
        action='store_true',
        help='try no mirror images: where these have another meaning, as with digits and letters',
    )
    parser.add_argument(
        '--sizes',
        type=float,
        nargs='*',
        default=[0.75, 1.25],
        help="sizes to try, as factors of the config's; nothing for none (default: 0.75 1.25)",
    )
    parser.add_argument(
        '--groups',
        type=parse_groups,
        nargs='*',
        help='groups to try states of, each as in tools/test.py; nothing for none (default: auto, '
        'the deepest, the first and the image)',
    )
    parser.add_argument(
        '--states', type=int, nargs='+', default=[2, 4], help='numbers of states (default: 2 4)'
    )
    cli.add_run_arguments(parser)
    return parser.parse_args(argv)


def request_of(args: argparse.Namespace, cfg: Config) -> TuneRequest:
    """What the flags ask for; ``cfg`` is the config with its work dir."""
    sizes = tuple(sorted({1.0, *args.sizes}))
    return TuneRequest(
        config=args.config,
        checkpoint=args.checkpoint,
        folder=Path(cfg.work_dir),
        images=TuningImages(args.split, args.images, args.seed, sizes, not args.no_flip),
        cost=args.cost,
        groups=args.groups,
        counts=args.states,
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    prepared = cli.prepared_config(args)
    request = request_of(args, prepared)
    as_written = read_config(args.config)
    apply_options(as_written, args.cfg_options, args.config)
    try:
        found = tune(prepared, request, as_written)
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. Finished images are kept: the same command goes on from there.')
    if is_main_process():
        print(found.table())
    report(f'{request.folder / "tuned.py"}: {found.summary()}')


if __name__ == '__main__':
    cli.run(main)
