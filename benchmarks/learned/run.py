"""Learned aggregation against the plain ways of merging, on the demo's three models.

    python -m benchmarks.learned.run              # after `make demo`; 3 minutes per training
    python -m benchmarks.learned.run --split val  # the split on which settings were chosen

All methods merge the same states. Aggregators are trained on a small part of the training set; the
base models stay as they are. What is finished is kept, so an interrupted run goes on where it was.
"""

import argparse
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint

import mmdiscard
from benchmarks.common.files import read_results
from benchmarks.common.statistics import paired_interval
from benchmarks.common.tables import markdown_table
from benchmarks.demo.job import fingerprint, load_config
from benchmarks.demo.models import DEMO_MODELS, checkpoints
from benchmarks.learned.compare import Method, MethodComparison
from mmdiscard.engine import cli
from mmdiscard.learned import SeededSubset
from mmdiscard.learned.feature_cache import FeatureCache
from mmdiscard.registry import MODELS, SEARCHES, build
from mmdiscard.utils import Progress, write_json, write_text

BUDGETS = (4, 10, 16)
BATCH = 10
IMAGES = 500
PAPER_LR = 1e-6
PLAIN = 'plain'
HEADER = ('method', 'metric', 'over plain', 'over the average', 'cost')


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
        loader = Runner.build_dataloader(loader)
        self.metainfo = loader.dataset.metainfo
        for batch in loader:
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


def predictions(logits: torch.Tensor, samples: Sequence, dense: bool) -> list[dict]:
    """What MM's metrics look at, for logits ``(N, K, ...)`` of as many samples.

    Args:
        logits: predicted.
        samples: with the truth.
        dense: whether they are of a segmentor.
    """
    if dense:
        return [
            dict(pred_sem_seg=dict(data=labels), gt_sem_seg=dict(data=sample.gt_sem_seg.data))
            for labels, sample in zip(logits.argmax(1), samples, strict=True)
        ]
    return [
        dict(pred_score=scores, gt_label=sample.gt_label)
        for scores, sample in zip(logits.softmax(1), samples, strict=True)
    ]


def run(name: str, seed: int, args: argparse.Namespace) -> dict:
    """All methods and budgets for one model.

    Args:
        name: of the demo model.
        seed: of its training.
        args: flags.
    """
    cfg = load_config(DEMO_MODELS[name].recommended, args.data, args.work_dir, seed)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    load_checkpoint(model, str(checkpoints(args.demo, name, seed)[-1]), map_location='cpu')
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
    args.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work_dir) as scratch:
        caches = [FeatureCache(f'{scratch}/{part}', part) for part in ('train', 'test')]
        for compared in methods('exact' if dense else 'none', args.attention_lr):
            with MethodComparison(
                model, compared, hook.subsampling, learn, caches[0]
            ) as comparison:
                budgets = BUDGETS if dense else (30,)
                found['seconds'] |= comparison.train(
                    train.batches, budgets, lambda line: print(f'{name} {seed}: {line}', flush=True)
                )
                comparison.ensemble.use(build(SEARCHES, search))
                comparison.cache = caches[1]
                examine(comparison, test, name, cfg, found)
    return found


def examine(comparison: MethodComparison, test: Data, name: str, cfg: Config, found: dict) -> None:
    """Add metrics and costs of all methods and budgets to what was found.

    Args:
        comparison: of trained methods.
        test: images.
        name: of the model.
        cfg: its config.
        found: gets ``metric`` and ``cost``, by method and budget.
    """
    dense = cfg.default_scope == 'mmseg'
    evaluators = {}
    for method, budget in product(comparison.methods, BUDGETS):
        evaluators[method.name, budget] = evaluator = Evaluator(cfg.test_evaluator)
        evaluator.dataset_meta = test.metainfo
    for images, samples in test.batches():
        parts = comparison.compute(images)
        for budget in BUDGETS:
            for method, logits in comparison.logits(parts, budget).items():
                evaluators[method, budget].process(predictions(logits, samples, dense))
    states = torch.stack([outputs.rows.states[0] for outputs in parts]).tolist()
    metric = DEMO_MODELS[name].metric
    values = {key: one.evaluate(len(test.samples))[metric] for key, one in evaluators.items()}
    for method in comparison.methods:
        found['metric'][method.name] = {
            budget: float(values[method.name, budget]) for budget in BUDGETS
        }
        found['cost'][method.name] = {
            budget: comparison.cost(method, states[:budget]) for budget in BUDGETS
        }


def rows(name: str, runs: Sequence[dict]) -> list[list[str]]:
    """Rows for one model: metric and paired gains over plain and over the average, and cost."""
    base, average = runs_of(runs, PLAIN, BUDGETS[0]), 'average'
    found = [[f'{name}, plain', f'{np.mean(base):.2f}', '', '', '1.00']]
    for budget in BUDGETS:
        for method in runs[0]['metric']:
            values = runs_of(runs, method, budget)
            if method == PLAIN or (method.startswith(PLAIN) and budget > BUDGETS[0]):
                continue
            label = method if method.startswith(PLAIN) else f'B={budget}, {method}'
            over = paired_interval(runs_of(runs, average, budget), values)
            cost = np.mean([run['cost'][method][str(budget)] for run in runs])
            found.append(
                [
                    label,
                    f'{np.mean(values):.2f}',
                    str(paired_interval(base, values)),
                    '' if method == average else str(over),
                    f'{cost:.2f}',
                ]
            )
    return found


def runs_of(runs: Sequence[dict], method: str, budget: int) -> list[float]:
    """Metrics of one method and budget, one for each run."""
    return [run['metric'][method][str(budget)] for run in runs]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--models', nargs='+', choices=DEMO_MODELS, default=list(DEMO_MODELS))
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
    MMLogger.get_instance('mmdiscard', log_level='WARNING')  # metrics log a table each
    jobs = [(name, seed) for seed in range(args.seeds) for name in args.models]
    for job in jobs:
        checkpoints(args.demo, *job)
    progress = Progress(len(jobs), 'models and seeds', every=0)
    for name, seed in jobs:
        path = result_of(name, seed, args)
        key = fingerprint(
            checkpoints(args.demo, name, seed)[-1].stat().st_mtime_ns,
            args.images,
            args.attention_lr,
            BUDGETS,
            mmdiscard.__version__,
        )
        if read_results(path).get('fingerprint') != key:
            write_json(path, run(name, seed, args) | dict(fingerprint=key))
        progress.step(f'{name} {seed}')
    found = []
    for name in args.models:
        found += rows(name, [read_results(result_of(name, s, args)) for s in range(args.seeds)])
    table = '\n'.join(markdown_table(HEADER, found)) + '\n'
    write_text(args.work_dir / f'table_{args.split}.md', table)
    print('\n' + table)


def result_of(name: str, seed: int, args: argparse.Namespace) -> Path:
    """File of the results of one model and seed."""
    return args.work_dir / f'{name}_seed{seed}_{args.split}.json'


if __name__ == '__main__':
    try:
        cli.run(main)
    except KeyboardInterrupt:
        raise SystemExit('\nInterrupted. The same command goes on from there.') from None
