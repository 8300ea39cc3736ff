"""Fit mergers of test-time augmentation to the training set.

    python -m mmdiscard.fit_tta CONFIG CHECKPOINT --merger all          # with the config's states
    python -m mmdiscard.fit_tta CONFIG CHECKPOINT --merger gps --plain  # for TTA without mmdiscard

The views are those of the config's tta_pipeline. Their logits on a random subset of the training
set are cached in FOLDER/logits: an interrupted run continues from there, and other mergers are
fitted to the same logits. Every merger gets a file, for

    tta_model = dict(type='mmdiscard.DiscardClsTTA', merger=dict(type='GPSMerger', file='...'))
"""

import argparse
import sys
from pathlib import Path

from .engine import cli
from .tta.labelled_views import LabelledViews
from .tta.merger_fitting import MERGERS, FitRequest, fit


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.tool_parser(__doc__)
    parser.add_argument(
        '--merger', choices=[*MERGERS, 'all'], default='all', help='merger to fit (default: all)'
    )
    parser.add_argument(
        '--plain', action='store_true', help='fit to plain views, without mmdiscard'
    )
    cli.add_image_arguments(parser, images=2000, split='train')
    parser.add_argument('--pixels', type=int, default=64, help='per segmented image (default: 64)')
    parser.add_argument('--gps-views', type=int, default=3, help='number of GPS views (default: 3)')
    parser.add_argument(
        '--gps-likelihood',
        action='store_true',
        help='choose by the likelihood of calibrated probabilities, as in the GPS paper',
    )
    parser.add_argument('--folder', type=Path, help='of the files (default: WORK_DIR/tta)')
    cli.add_run_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = cli.prepared_config(args)
    gps = dict(count=args.gps_views, likelihood=args.gps_likelihood)
    request = FitRequest(
        config=args.config,
        checkpoint=args.checkpoint,
        folder=args.folder or Path(cfg.work_dir, 'tta'),
        mergers=list(MERGERS.values()) if args.merger == 'all' else [MERGERS[args.merger]],
        images=LabelledViews(args.split, args.images, args.seed),
        plain=args.plain,
        pixels=args.pixels,
        options={'GPSMerger': gps},
    )
    try:
        fit(cfg, request)
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. Finished images are kept: the same command continues from there.')


if __name__ == '__main__':
    cli.run(main)
