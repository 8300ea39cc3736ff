"""Is a calibrated set of states better than a search per image at the same cost?

    python -m benchmarks.search.compare_states CONFIG CHECKPOINT [CHECKPOINT ...] --cost 2.0

For every checkpoint (trainings that differ in their seed) states are calibrated on validation
images and tested beside the plain model, spread states, and greedy searches per image, all with
groups and aggregator of the config's SubsamplingSearchHook. Writes a table with paired 95 %
intervals and the single results. What is finished is not done again.
"""

import argparse
import logging
from pathlib import Path
from statistics import fmean

from benchmarks.common.statistics import paired_interval
from benchmarks.common.tables import markdown_table
from benchmarks.search.comparison import Comparison
from mmdiscard.calibration import CalibrationRequest, calibrate
from mmdiscard.engine import cli
from mmdiscard.engine.config import load_config
from mmdiscard.engine.data_subset import SPLITS, CalibrationImages
from mmdiscard.utils import write_json, write_text

CALIBRATED = 'calibrated set'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoints', nargs='+', help='weights, one file per seed')
    parser.add_argument('--cost', type=float, default=2.0, help='plain forwards (default: 2.0)')
    parser.add_argument('--images', type=int, default=300, help='to calibrate on (default: 300)')
    parser.add_argument('--split', choices=SPLITS, default='val', help='to calibrate on')
    parser.add_argument('--metric', help='to compare (default: top-1 accuracy or mIoU)')
    parser.add_argument('--work-dir', help='where everything goes (default: work_dirs/CONFIG)')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin host memory')
    cli.add_config_options(parser)
    return parser.parse_args(argv)


def searches(cost: float, file: str) -> dict[str, dict | None]:
    """What is compared, at the same cost."""
    budget = dict(cost=cost)
    return {
        'plain': None,
        CALIBRATED: dict(type='FixedStates', file=file),
        'spread': dict(type='SpreadStates', budget=budget),
        'per image, deep first': dict(type='GreedySearch', budget=budget, order='deep_first'),
        'per image, shallow first': dict(type='GreedySearch', budget=budget),
    }


def table(results: dict[str, list[dict]], cost: float, metric: str) -> list[str]:
    """Markdown lines; intervals are over checkpoints.

    Args:
        results: by name of the search, one for each checkpoint.
        cost: that all may have.
        metric: its name.
    """
    metrics = {name: [run['metric'] for run in runs] for name, runs in results.items()}
    header = [f'at most {cost:g} plain forwards', metric, 'over plain', 'calibrated over it']
    rows = []
    for name, runs in results.items():
        values = metrics[name]
        mean, states, spent = (fmean(run[k] for run in runs) for k in ('metric', 'states', 'cost'))
        over = '' if name == 'plain' else str(paired_interval(metrics['plain'], values))
        ahead = '' if name == CALIBRATED else str(paired_interval(values, metrics[CALIBRATED]))
        rows.append([name, f'{mean:.2f}', over, ahead, f'{states:.1f}', f'{spent:.2f}'])
    return markdown_table([*header, 'states', 'cost'], rows)


def run(args: argparse.Namespace) -> dict[str, list[dict]]:
    """All variants with all checkpoints."""
    cfg = load_config(args)
    comparison = Comparison(cfg, args.checkpoints, Path(cfg.work_dir), args.metric)
    images = CalibrationImages(args.split, args.images)
    results: dict[str, list[dict]] = {}
    for checkpoint in args.checkpoints:
        name = f'states_{args.split}{args.images}_cost{args.cost:g}.json'
        file = comparison.place(checkpoint) / name
        if not file.is_file():
            own = load_config(args)
            own.log_level = logging.getLevelName(logging.WARNING)
            own.work_dir = str(comparison.place(checkpoint) / 'calibrate')
            budget = dict(cost=args.cost)
            calibrate(own, CalibrationRequest(args.config, checkpoint, file, images, budget))
        for name, search in searches(args.cost, str(file)).items():
            results.setdefault(name, []).append(comparison.test(checkpoint, name, search))
    lines = table(results, args.cost, comparison.metric)
    stem = Path(cfg.work_dir) / f'states_cost{args.cost:g}'
    write_json(stem.with_name(stem.name + '_comparison.json'), results)
    write_text(stem.with_name(stem.name + '_comparison.md'), '\n'.join(lines) + '\n')
    print('\n'.join(lines))
    return results


def main(argv: list[str] | None = None) -> None:
    run(parse_args(argv))


if __name__ == '__main__':
    cli.run(main)
