"""How much of a search's gain is left when a gate stops confident images early?

    python -m benchmarks.search.compare_gates CONFIG CHECKPOINT [CHECKPOINT ...] --costs 1.25 1.5 2

For every checkpoint (trainings that differ in their seed) thresholds for the average costs are
calibrated on validation images, then tested beside the plain model, the search without a gate, and
the same search with smaller budgets for all images. Groups, search and aggregator are those of the
config's SubsamplingSearchHook (change them with --cfg-options). Writes a table, a figure and the
single results. What is finished is not done again.
"""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from mmengine.config import Config

from benchmarks.common.statistics import paired_interval
from benchmarks.common.tables import markdown_table
from benchmarks.search.comparison import Comparison
from benchmarks.search.figure import draw_adaptive_curves
from mmdiscard.calibration.gate_calibration import GateCalibration
from mmdiscard.engine import cli
from mmdiscard.engine.config import load_config
from mmdiscard.engine.data_subset import SPLITS, CalibrationImages
from mmdiscard.engine.load_runner import load_runner
from mmdiscard.errors import MMDiscardError
from mmdiscard.utils import write_json, write_text

GATES = {'entropy': 'EntropyGate', 'margin': 'MarginGate'}
PLAIN, FULL = 'plain', 'no gate'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoints', nargs='+', help='weights, one file per seed')
    parser.add_argument('--gate', choices=GATES, default='entropy', help='(default: entropy)')
    parser.add_argument(
        '--costs',
        type=float,
        nargs='+',
        default=[1.25, 1.5, 2.0, 3.0],
        help='average costs of gated searches, in plain forwards (default: 1.25 1.5 2 3)',
    )
    parser.add_argument(
        '--budgets',
        type=int,
        nargs='*',
        default=[2, 4],
        help='numbers of states of the same search without a gate (default: 2 4)',
    )
    parser.add_argument('--images', type=int, default=300, help='to calibrate on (default: 300)')
    parser.add_argument('--split', choices=SPLITS, default='val', help='to calibrate on')
    parser.add_argument('--metric', help='to compare (default: top-1 accuracy or mIoU)')
    parser.add_argument('--work-dir', help='where everything goes (default: work_dirs/CONFIG)')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin host memory')
    cli.add_config_options(parser)
    return parser.parse_args(argv)


def gate_files(
    cfg: Config, args: argparse.Namespace, settings: Mapping[str, Any], checkpoint: str, place: Path
) -> dict[float, Path]:
    """A gate's file for every cost that a gate can give; the search runs once for all of them.

    Args:
        cfg: read for this call, which changes it.
        args: flags.
        settings: of the search hook.
        checkpoint: weights.
        place: folder for the files.
    """
    files = {
        cost: place / f'{args.gate}_{args.split}{args.images}_cost{cost:g}.json'
        for cost in args.costs
    }
    if all(file.is_file() for file in files.values()):
        return files
    cfg.work_dir = str(place / 'calibrate')
    cfg.log_level = logging.getLevelName(logging.WARNING)
    images = CalibrationImages(args.split, args.images)
    images.check(cfg)
    model = load_runner(cfg, checkpoint).model
    loader, count = images.loader(cfg)
    calibration = GateCalibration(model, settings, GATES[args.gate], loader)
    notes = dict(
        config=args.config, checkpoint=checkpoint, **images.describe() | dict(images=count)
    )
    notes |= dict(search=settings['search'])
    for cost, file in files.items():
        calibration.write(file, cost, notes)
    return files


def searches(
    search: dict[str, Any], gate: str, files: Mapping[float, Path], budgets: list[int]
) -> dict[str, dict[str, Any] | None]:
    """What is compared.

    Args:
        search: config of the search without a gate.
        gate: key of `GATES`.
        files: of gates, by their cost.
        budgets: of the same search without a gate.
    """
    gated = {
        f'gate, cost {cost:g}': search | dict(gate=dict(type=GATES[gate], file=str(file)))
        for cost, file in files.items()
    }
    smaller = {f'{budget} states': search | dict(budget=budget) for budget in budgets}
    return {PLAIN: None, FULL: search} | gated | smaller


def share_of_gain(results: Mapping[str, list[dict]], name: str) -> float:
    """Mean gain over the plain model, in parts of the mean gain of the search without a gate."""

    def total(variant: str) -> float:
        return sum(run['metric'] for run in results[variant])

    gain = total(FULL) - total(PLAIN)
    return (total(name) - total(PLAIN)) / gain if gain else float('nan')


def table(results: Mapping[str, list[dict]], metric: str) -> list[str]:
    """Markdown lines; intervals are over checkpoints."""
    plain = [run['metric'] for run in results[PLAIN]]
    rows = []
    for name, runs in results.items():
        cost, states, mean = (fmean(run[k] for run in runs) for k in ('cost', 'states', 'metric'))
        row = [name, f'{cost:.2f}', f'{states:.1f}', f'{mean:.2f}', '', '']
        if name != PLAIN:
            gain = paired_interval(plain, [run['metric'] for run in runs])
            row[-2:] = str(gain), f'{share_of_gain(results, name):.0%}'
        rows.append(row)
    header = ['search', 'cost', 'states', metric, 'over plain', 'share of the gain']
    return markdown_table(header, rows)


def points(results: Mapping[str, list[dict]]) -> dict[str, list[tuple[float, float]]]:
    """(cost, share of the gain) of the gated and of the smaller searches, for the figure."""

    def curve(names: list[str]) -> list[tuple[float, float]]:
        every = [PLAIN, *names, FULL]
        costs = [sum(run['cost'] for run in results[n]) / len(results[n]) for n in every]
        return sorted(zip(costs, (share_of_gain(results, n) for n in every), strict=True))

    gated = [name for name in results if name.startswith('gate')]
    smaller = [name for name in results if name.endswith('states')]
    return {
        'gate': curve(gated),
        'fewer states for all': curve(smaller),
        'images at random': curve([]),  # expected of a gate that picks images at random
    }


def run(args: argparse.Namespace) -> dict[str, list[dict]]:
    """All variants with all checkpoints."""
    cfg = load_config(args)
    comparison = Comparison(cfg, args.checkpoints, Path(cfg.work_dir), args.metric)
    settings = comparison.settings
    if 'search' not in settings:
        raise MMDiscardError('the SubsamplingSearchHook of the config names no search to compare')
    settings['search'].pop('gate', None)
    results: dict[str, list[dict]] = {}
    for checkpoint in args.checkpoints:
        place = comparison.place(checkpoint)
        files = gate_files(load_config(args), args, settings, checkpoint, place)
        compared = searches(settings['search'], args.gate, files, args.budgets)
        for name, search in compared.items():
            results.setdefault(name, []).append(comparison.test(checkpoint, name, search))
    write(results, Path(cfg.work_dir), args.gate, comparison.metric)
    return results


def write(results: dict[str, list[dict]], folder: Path, gate: str, metric: str) -> None:
    """Results, table and figure.

    Args:
        results: by name of the search, one for each checkpoint.
        folder: for the files.
        gate: key of `GATES`.
        metric: its name.
    """
    lines = table(results, metric)
    write_json(folder / f'{gate}_gates.json', results)
    write_text(folder / f'{gate}_gates.md', '\n'.join(lines) + '\n')
    draw_adaptive_curves({folder.name: points(results)}, folder / f'{gate}_gates.png')
    print('\n'.join(lines))


def main(argv: list[str] | None = None) -> None:
    run(parse_args(argv))


if __name__ == '__main__':
    cli.run(main)
