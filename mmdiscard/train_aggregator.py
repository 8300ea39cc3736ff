"""Train the learned aggregator of a config on top of a frozen model.

    python -m mmdiscard.train_aggregator CONFIG CHECKPOINT

CONFIG is one that tests with a learned aggregator, such as those in configs/learned. Its
`aggregator_training` has the options of training (default: the paper's recipe). CHECKPOINT holds
the weights of the model itself. The result is WORK_DIR/aggregator.pth, a few kilobytes. After an
interruption the same command with --resume continues after the last finished epoch.
"""

import argparse
import sys

from mmengine.config import Config

from .engine import cli
from .engine.load_runner import build_runner
from .learned import training_config as training


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.tool_parser(__doc__)
    parser.add_argument(
        '--resume',
        action='store_true',
        help='continue after the last finished epoch in the work dir',
    )
    parser.add_argument(
        '--images', type=int, help='number of training images (default: as in the config)'
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision, on a GPU')
    cli.add_run_arguments(parser)
    return parser.parse_args(argv)


def make_config(args: argparse.Namespace) -> Config:
    """The config to run, all flags applied."""
    cfg = cli.prepared_config(args)
    if args.images is not None:
        cfg.setdefault('aggregator_training', {})
        cfg.aggregator_training.images = args.images
    training.training_config(cfg)
    if args.amp:
        training.use_amp(cfg)
    cfg.resume = args.resume
    return cfg


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = make_config(args)
    try:
        runner = build_runner(cfg, check_weights=False)
        training.load_base(runner, args.checkpoint)
        runner.train()
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. What is finished is kept: --resume goes on from there.')


if __name__ == '__main__':
    cli.run(main)
