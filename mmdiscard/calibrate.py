"""Choose states, or the threshold of a gate, on labelled images that are not the test set.

    python -m mmdiscard.calibrate CONFIG CHECKPOINT --budget 4    # a fixed set of four states
    python -m mmdiscard.calibrate CONFIG CHECKPOINT --cost 2.0    # ... worth two plain forwards
    python -m mmdiscard.calibrate CONFIG CHECKPOINT --gate entropy --cost 1.5    # a threshold

The first two write a file for `search=dict(type='FixedStates', file=...)`, the last one a file for
`gate=dict(type='EntropyGate', file=...)`. Groups and aggregator are those of the config's
SubsamplingSearchHook, and for a gate its search too. After an interruption the same command
continues with the next state.
"""

import argparse
import sys
from pathlib import Path

from .calibration import CalibrationRequest, calibrate
from .engine import cli
from .engine.data_subset import CalibrationImages
from .utils import report

GATES = {'entropy': 'EntropyGate', 'margin': 'MarginGate'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.tool_parser(__doc__)
    parser.add_argument('--budget', type=int, help='number of states to choose, at most')
    parser.add_argument(
        '--cost',
        type=float,
        help='cost in plain forwards: of the states, at most; with --gate, of an image on average',
    )
    parser.add_argument('--gate', choices=GATES, help='find the threshold of this gate instead')
    cli.add_image_arguments(parser, images=300, split='val')
    parser.add_argument(
        '--candidates',
        type=int,
        default=64,
        help='states tried per round; if there are more, those farthest apart (default: 64)',
    )
    parser.add_argument(
        '--out', type=Path, help='file to write (default: states.json or gate.json in the work dir)'
    )
    cli.add_run_arguments(parser)
    args = parser.parse_args(argv)
    if args.budget is None and args.cost is None:
        parser.error('give --budget, --cost, or both')
    if args.gate and (args.cost is None or args.budget is not None):
        parser.error('--gate needs --cost, and takes no --budget: the search of the config has one')
    return args


def request_of(args: argparse.Namespace, work_dir: str) -> CalibrationRequest:
    name = 'gate.json' if args.gate else 'states.json'
    budget = dict(states=args.budget, cost=args.cost)
    return CalibrationRequest(
        config=args.config,
        checkpoint=args.checkpoint,
        out=args.out or Path(work_dir, name),
        images=CalibrationImages(args.split, args.images, args.seed),
        budget={key: value for key, value in budget.items() if value is not None},
        gate=GATES.get(args.gate),
        candidates=args.candidates,
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = cli.prepared_config(args)
    request = request_of(args, cfg.work_dir)
    try:
        result = calibrate(cfg, request)
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. Finished rounds are kept: the same command goes on from there.')
    report(f'{request.out}: {summary(result)}')


def summary(result: dict | list) -> str:
    """One line about the result."""
    if isinstance(result, dict):
        expected = result['expected']
        return (
            f'{result["gate"]} with threshold {result["threshold"]:.4f}: {expected["cost"]:.2f} '
            f'plain forwards on average instead of {expected["cost_without_gate"]:.2f}'
        )
    first, last = result[0], result[-1]
    return (
        f'{len(result)} states, cost {last.cost:.2f}, loss {last.loss:.4f} (of the default state '
        f'alone {first.loss:.4f})'
    )


if __name__ == '__main__':
    cli.run(main)
