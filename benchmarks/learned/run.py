"""Learned aggregation against the plain ways of merging, on the demo's three models.

    python -m benchmarks.learned.run              # after `make demo`; 3 minutes per training
    python -m benchmarks.learned.run --split val  # the split on which settings were chosen

All methods merge the same states. Aggregators are trained on a small part of the training set; the
base models stay as they are. What is finished is kept, so an interrupted run goes on where it was.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint

import mmdiscard
from benchmarks.common.statistics import paired_interval
from benchmarks.demo.job import MODELS, fingerprint, load_config, read_json
from benchmarks.learned.compare import Contest, Method
from mmdiscard.engine import cli
from mmdiscard.errors import MMDiscardError
from mmdiscard.learned import SeededSubset
from mmdiscard.learned.feature_cache import FeatureCache
from mmdiscard.registry import MODELS as MODEL_REGISTRY
from mmdiscard.registry import SEARCHES, build
from mmdiscard.utils import write_json

BUDGETS = (4, 10, 16)
BATCH = 10
IMAGES = 500
PAPER_LR = 1e-6
PLAIN = 'plain'
HEADER = '| method | metric | over plain | over the average | cost |'


def methods(align: str, larger_lrs: Sequence[float]) -> tuple[list[Method], list[Method]]:
    """What is compared: merging logits, merging features."""

    def on_logits(kind: str, **options) -> dict:
        return dict(type=kind, on='logits', align=align, **options)

    def on_features(kind: str) -> dict:
        return dict(type=kind, on='features', align='bilinear')

    correct = dict(lr=0.05, epochs=3)
    logits = [
        Method(PLAIN, on_logits('AverageAggregator'), one_state=True),
        Method('plain + class correction', on_logits('ClassCorrection'), one_state=True, **correct),
        Method('average', on_logits('AverageAggregator')),
        Method('average + class correction', on_logits('ClassCorrection'), **correct),
        Method('entropy', on_logits('EntropyAggregator')),
    ]
    if align == 'exact':
        logits.append(Method('phase (ours)', on_logits('PhaseAggregator'), **correct))
    features = [
        Method('average of features', on_features('AverageAggregator')),
        Method('entropy of features', on_features('EntropyAggregator')),
        *(
            Method(f'attention, lr {lr:g}', on_features('AttentionAggregator'), lr, epochs=5)
            for lr in (PAPER_LR, *larger_lrs)
        ),
    ]
    return logits, features


class Data:
    """Images of a split, preprocessed, in memory.

    Args:
        loader: config of a data loader, whose pipeline changes nothing at random.
        model: preprocesses.
    """

    def __init__(self, loader: dict, model: torch.nn.Module) -> None:
        images, self.samples = [], []
        for batch in Runner.build_dataloader(loader):
            batch = model.data_preprocessor(batch, False)
            images.append(batch['inputs'])
            self.samples += batch['data_samples']
        self.images = torch.cat(images)

    def batches(self, epoch: int | None = None) -> list:
        """Images and samples; in an order of the epoch, if one is given."""
        order = np.arange(len(self.samples))
        if epoch is not None:
            order = np.random.default_rng(epoch).permutation(order)
        parts = np.split(order, range(BATCH, len(order), BATCH))
        return [(self.images[part], [self.samples[i] for i in part]) for part in parts]


class Confusion:
    """Counts of labels against predictions, and the demo's metric of them."""

    def __init__(self) -> None:
        self.counts = 0

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count ``(N, K, ...)`` against ``(N, ...)``; labels of 255 are ignored."""
        classes = logits.shape[1]
        known = labels != 255
        pairs = labels[known] * classes + logits.argmax(1)[known]
        self.counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()

    def metric(self, dense: bool) -> float:
        """mIoU or accuracy, in percent."""
        right = self.counts.diag()
        if not dense:
            return float(right.sum() / self.counts.sum() * 100)
        return float((right / (self.counts.sum(0) + self.counts.sum(1) - right)).mean() * 100)


def labels_of(samples: Sequence, dense: bool) -> torch.Tensor:
    if dense:
        return torch.cat([sample.gt_sem_seg.data for sample in samples]).long()
    return torch.cat([sample.gt_label for sample in samples])


def run(name: str, seed: int, args: argparse.Namespace) -> dict:
    """All methods and budgets for one model."""
    cfg = load_config(MODELS[name].recommended, args.data, args.work_dir, seed)
    init_default_scope(cfg.default_scope)
    model = MODEL_REGISTRY.build(cfg.model).eval()
    load_checkpoint(model, str(checkpoint_of(name, seed, args)), map_location='cpu')
    dense = cfg.default_scope == 'mmseg'
    training = cfg.train_dataloader
    training.update(batch_size=BATCH, sampler=dict(type='DefaultSampler', shuffle=False))
    training.dataset.pipeline = cfg.test_pipeline
    training.dataset = SeededSubset(training.dataset, args.images, seed, at_least=BATCH)
    train = Data(training, model)
    test = Data(cfg[f'{args.split}_dataloader'], model)
    hook = cfg.custom_hooks[0]
    search = dict(hook.search, budget=max(BUDGETS))
    # Spaces of 16 states are trained on as a whole; larger ones as in the paper.
    learn = search if dense else dict(search, budget=30, criterion=dict(type='RandomCriterion'))
    found = dict(metric={}, cost={}, seconds={})
    with tempfile.TemporaryDirectory(dir=args.work_dir) as scratch:
        caches = [FeatureCache(f'{scratch}/{part}', part) for part in ('train', 'test')]
        for contestants in methods('exact' if dense else 'none', args.attention_lr):
            with Contest(model, contestants, hook.subsampling, learn, caches[0]) as contest:
                budgets = BUDGETS if dense else (30,)
                found['seconds'] |= contest.train(
                    train.batches, budgets, lambda line: print(f'{name} {seed}: {line}', flush=True)
                )
                contest.ensemble.use(build(SEARCHES, search))
                contest.cache = caches[1]
                examine(contest, test, dense, found)
    return found


def examine(contest: Contest, test: Data, dense: bool, found: dict) -> None:
    """Metrics and costs of all methods and budgets."""
    confusions = {(m.name, budget): Confusion() for m in contest.methods for budget in BUDGETS}
    for images, samples in test.batches():
        parts = contest.compute(images)
        labels = labels_of(samples, dense)
        for budget in BUDGETS:
            for name, logits in contest.logits(parts, budget).items():
                confusions[name, budget].add(logits, labels)
    states = torch.stack([outputs.rows.states[0] for outputs in parts]).tolist()
    for method in contest.methods:
        found['metric'][method.name] = {
            budget: confusions[method.name, budget].metric(dense) for budget in BUDGETS
        }
        found['cost'][method.name] = {
            budget: contest.cost(method, states[:budget]) for budget in BUDGETS
        }


def checkpoint_of(name: str, seed: int, args: argparse.Namespace) -> Path:
    """The demo's checkpoint.

    Raises:
        MMDiscardError: if there is none.
    """
    folder = args.demo / name / f'seed{seed}'
    found = sorted(folder.glob('iter_*.pth'))
    if not found:
        raise MMDiscardError(f'no checkpoint in {folder}: run `make demo` first')
    return found[-1]


def table(name: str, runs: Sequence[dict]) -> list[str]:
    """Lines for one model: metric and paired gains over plain and over the average, and cost."""
    base, average = runs_of(runs, PLAIN, BUDGETS[0]), 'average'
    lines = [f'| {name}, plain | {np.mean(base):.2f} | | | 1.00 |']
    for budget in BUDGETS:
        for method in runs[0]['metric']:
            values = runs_of(runs, method, budget)
            if method == PLAIN or (method.startswith(PLAIN) and budget > BUDGETS[0]):
                continue
            label = method if method.startswith(PLAIN) else f'B={budget}, {method}'
            cost = np.mean([run['cost'][method][str(budget)] for run in runs])
            over = (
                '' if method == average else paired_interval(runs_of(runs, average, budget), values)
            )
            lines.append(
                f'| {label} | {np.mean(values):.2f} | {paired_interval(base, values)} | {over} | '
                f'{cost:.2f} |'
            )
    return lines


def runs_of(runs: Sequence[dict], method: str, budget: int) -> list[float]:
    return [run['metric'][method][str(budget)] for run in runs]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--models', nargs='+', choices=list(MODELS), default=list(MODELS))
    parser.add_argument('--seeds', type=int, default=3, help='trainings per model (default: 3)')
    parser.add_argument('--split', choices=['val', 'test'], default='test')
    parser.add_argument('--images', type=int, default=IMAGES, help='training images')
    parser.add_argument(
        '--attention-lr', type=float, nargs='+', default=[1e-3], help="beside the paper's"
    )
    parser.add_argument('--demo', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--data', type=Path, default=Path('data/digit_scenes'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/learned'))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    jobs = [(name, seed) for seed in range(args.seeds) for name in args.models]
    for job in jobs:
        checkpoint_of(*job, args)
    start, finished = time.perf_counter(), 0
    lines = [
        '| method | metric | over plain | over the average | cost |',
        '|---|---:|---:|---:|---:|',
    ]
    for number, (name, seed) in enumerate(jobs):
        path = result_of(name, seed, args)
        key = fingerprint(
            checkpoint_of(name, seed, args).stat().st_mtime_ns,
            args.images,
            args.attention_lr,
            BUDGETS,
            mmdiscard.__version__,
        )
        if read_json(path).get('fingerprint') == key:
            continue
        write_json(path, run(name, seed, args) | dict(fingerprint=key))
        finished += 1
        spent = time.perf_counter() - start
        left = spent / finished * (len(jobs) - number - 1)
        print(f'{name} {seed}: done, {spent:.0f} s spent, about {left:.0f} s left', flush=True)
    for name in args.models:
        lines += table(name, [read_json(result_of(name, s, args)) for s in range(args.seeds)])
    report = '\n'.join(lines) + '\n'
    (args.work_dir / f'table_{args.split}.md').write_text(report)
    print('\n' + report)


def result_of(name: str, seed: int, args: argparse.Namespace) -> Path:
    return args.work_dir / f'{name}_seed{seed}_{args.split}.json'


if __name__ == '__main__':
    try:
        cli.run(main)
    except KeyboardInterrupt:
        raise SystemExit('\nInterrupted. The same command goes on from there.') from None
