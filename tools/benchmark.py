"""How long a prediction takes for each budget, in units of the plain model's prediction.

    python tools/benchmark.py CONFIG --budgets 1 4 10 --batch 8 --size 224 224

Weights and images are random: only time is measured. Plain and attached predictions take turns in
one run, and a ratio is the median over the turns. Cost is in multiply-accumulates of a plain
forward; its bound is what the states cost if every prefix that they share is computed once.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import preamble  # noqa: F401  (before anything reads a config)
import torch
from mmengine.registry import MODELS, init_default_scope

import mmdiscard
from mmdiscard.engine import launch
from mmdiscard.errors import MMDiscardError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='a config with a SubsamplingSearchHook')
    parser.add_argument('--budgets', type=int, nargs='+', default=[1, 4, 10])
    parser.add_argument('--batch', type=int, default=8, help='images per batch')
    parser.add_argument('--size', type=int, nargs=2, default=[224, 224], metavar=('H', 'W'))
    parser.add_argument('--turns', type=int, default=9, help='measurements of each')
    parser.add_argument('--max-rows', type=int, help='rows in flight (default: the batch)')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--out', type=Path, help='file for the figures (.json)')
    launch.add_config_options(parser)
    return parser.parse_args()


def build_model(args: argparse.Namespace) -> tuple[torch.nn.Module, dict]:
    """The config's model with random weights, and the settings of its hook.

    Raises:
        MMDiscardError: if the config has no search hook.
    """
    cfg = launch.read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    launch.package_of(cfg, args.config)
    hooks = [h for h in cfg.get('custom_hooks', []) if launch.is_discard_type(h)]
    if not hooks:
        raise MMDiscardError(
            f'{args.config} has no SubsamplingSearchHook in custom_hooks to measure'
        )
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).to(args.device)
    model.eval()
    settings = {key: hooks[0].get(key) for key in ('subsampling', 'search', 'aggregator')}
    return model, settings


def timed(predict: Callable[[], object], device: str) -> float:
    """Seconds of one call, the device's queue included."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    start = time.perf_counter()
    predict()
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(args: argparse.Namespace) -> list[dict]:
    """One record per budget: median seconds and the median ratio to the plain prediction."""
    model, settings = build_model(args)
    images = torch.randn(args.batch, 3, *args.size, device=args.device)
    plain: dict[int, list[float]] = {budget: [] for budget in args.budgets}
    merged: dict[int, list[float]] = {budget: [] for budget in args.budgets}
    results: dict[int, mmdiscard.models.SearchResult] = {}

    def predict() -> None:
        with torch.no_grad(), torch.autocast(args.device.split(':')[0], enabled=args.amp):
            model.predict(images)

    def attached(budget: int) -> mmdiscard.models.Ensemble:
        search = dict(settings['search'], budget=budget)
        return mmdiscard.attach(model, **(settings | dict(search=search, max_rows=args.max_rows)))

    predict()
    for budget in args.budgets:
        for turn in range(args.turns + 1):
            before = timed(predict, args.device)
            with attached(budget) as ensemble:
                after = timed(predict, args.device)
                results[budget] = ensemble.last
            if turn:  # the first turn warms up
                plain[budget].append(before)
                merged[budget].append(after)
            print(f'\rbudget {budget}: {turn} of {args.turns} turns', end='', flush=True)
        print()
    return [
        dict(
            budget=budget,
            plain_seconds=statistics.median(plain[budget]),
            seconds=statistics.median(merged[budget]),
            ratio=statistics.median(
                m / p for m, p in zip(merged[budget], plain[budget], strict=True)
            ),
            cost=results[budget].cost,
            bound=results[budget].bound,
        )
        for budget in args.budgets
    ]


def main() -> None:
    args = parse_args()
    records = measure(args)
    print('\n| budget | plain (s) | mmdiscard (s) | time ratio | cost | bound | ratio / bound |')
    print('|---:|---:|---:|---:|---:|---:|---:|')
    for r in records:
        print(
            f'| {r["budget"]} | {r["plain_seconds"]:.4f} | {r["seconds"]:.4f} '
            f'| {r["ratio"]:.3f} | {r["cost"]:.3f} | {r["bound"]:.3f} '
            f'| {r["ratio"] / r["bound"]:.3f} |'
        )
    if args.out:
        args.out.write_text(json.dumps(dict(settings=str(vars(args)), records=records), indent=2))


if __name__ == '__main__':
    launch.run(main)
