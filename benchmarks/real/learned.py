"""What learned aggregators gain on a real segmentor over the plain mean of the same states.

    python -m benchmarks.real.learned CONFIG CHECKPOINT --step 3

Four spread states of the group 'auto'. Trained on 150 training images without augmentation, by the
settings that `benchmarks.learned` chose; tested on every so many test images. Adds the model to
`benchmarks/real/learned.json`.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import nn
from torch.nn import functional as F

from benchmarks.common.files import read_results
from benchmarks.common.statistics import image_draws
from benchmarks.common.tables import interval, markdown_table
from benchmarks.learned.compare import MethodComparison
from benchmarks.learned.run import PLAIN, Data, methods
from mmdiscard.learned import SeededSubset
from mmdiscard.learned.feature_cache import FeatureCache
from mmdiscard.utils import Progress, report, write_json

from .segmentor_atoms import build
from .segmentor_report import DRAWS, miou, miou_gain, model_of
from .segmentors import count_pairs

JSON = Path('benchmarks/real/learned.json')
IMAGES = 150
BUDGET = 4
ATTENTION_LRS = (1e-3,)  # beside the paper's
SUBSAMPLING = dict(groups='auto', input_size=(384, 480))
SEARCH = dict(type='SpreadStates', budget=BUDGET)


def load(config: Config, split: str, model: nn.Module, count: int = 0, step: int = 1) -> Data:
    """Images and labels of a split, both padded alike.

    Args:
        config: of `configs/camvid`.
        split: ``'train'`` or ``'test'``.
        model: preprocesses.
        count: images drawn with seed 0; 0 for all.
        step: every so many of them.
    """
    loader = config[f'{split}_dataloader']
    loader.update(batch_size=1, num_workers=0, persistent_workers=False)
    loader.sampler = dict(type='DefaultSampler', shuffle=False)
    loader.dataset.update(pipeline=config.test_pipeline)
    if count:
        loader.dataset = SeededSubset(loader.dataset, count, 0)
    data = Data(loader, model)
    data.images, data.samples = data.images[::step], data.samples[::step]
    height, width = data.images.shape[2:]
    for sample in data.samples:
        labels = sample.gt_sem_seg.data
        below, right = height - labels.shape[1], width - labels.shape[2]
        padded = F.pad(labels, (0, right, 0, below), value=config.ignore_index)
        sample.gt_sem_seg = PixelData(data=padded)
    return data


def confusions(comparison: MethodComparison, test: Data) -> Iterator[dict[str, np.ndarray]]:
    """Counts ``(images, K, K)`` of label and prediction by method, batch by batch."""
    for images, samples in test.batches():
        parts = comparison.compute(images)
        labels = torch.stack([sample.gt_sem_seg.data[0].long() for sample in samples])
        found = {}
        for method, logits in comparison.logits(parts, BUDGET).items():
            classes = logits.shape[1]
            pairs = zip(labels, logits.argmax(1), labels < classes, strict=True)
            found[method] = np.stack(
                [count_pairs(truth[kept], own[kept], classes) for truth, own, kept in pairs]
            )
        yield found


def measure(config: Config, checkpoint: Path, step: int) -> dict:
    """Gains of all methods over plain and over the plain mean of what they merge.

    Args:
        config: of `configs/camvid`.
        checkpoint: of its model.
        step: every so many test images.
    """
    init_default_scope('mmseg')
    model = build(config, checkpoint)
    train = load(config, 'train', model, count=IMAGES)
    test = load(config, 'test', model, step=step)
    progress = Progress(2, 'groups of methods', every=0)
    counts: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as scratch:
        cache = FeatureCache(scratch, 'train')
        for compared in methods('exact', ATTENTION_LRS):
            with MethodComparison(model, compared, SUBSAMPLING, SEARCH, cache) as comparison:
                comparison.train(train.batches, (BUDGET,), report)
                comparison.cache = None
                batches = list(confusions(comparison, test))
            counts |= {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
            progress.step()
    return dict(images=len(test.samples), rows=rows(counts))


def rows(counts: Mapping[str, np.ndarray]) -> list[dict]:
    """Metric, gain over the plain model and over the plain mean of the same tensors.

    Args:
        counts: confusions ``(images, K, K)`` by method.
    """
    weights = image_draws(len(counts[PLAIN]), DRAWS)
    found = []
    for name, own in counts.items():
        features = 'features' in name or 'attention' in name
        mean = counts['average of features' if features else 'average']
        found.append(
            dict(
                method=name,
                miou=float(miou(own.sum(0))),
                gain=miou_gain(own[None], counts[PLAIN][None], weights),
                over_mean=miou_gain(own[None], mean[None], weights),
            )
        )
    return found


def table(one: Mapping) -> list[str]:
    """Markdown of one model."""
    header = ['method', 'mIoU', 'gain over plain', 'over the mean']
    body = []
    for row in one['rows']:
        name = row['method']
        over_plain = '' if name == PLAIN else interval(row['gain'])
        itself = name.startswith((PLAIN, 'average')) and 'correction' not in name
        over_mean = '' if itself or name.startswith(PLAIN) else interval(row['over_mean'])
        body.append([name, f'{row["miou"]:.2f}', over_plain, over_mean])
    return markdown_table(header, body)


def sections(results: Mapping[str, Mapping]) -> list[str]:
    """The lines of RESULTS.md."""
    lines = [
        '## Learned aggregators',
        '',
        f'Four spread states of the group `auto`; trained on {IMAGES} training images with seed 0.',
        '*Over the mean*: over the plain mean of the same logits, or of the same features.',
    ]
    for model, one in results.items():
        lines += ['', f'### {model}, {one["images"]} test images', '', *table(one)]
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--step', type=int, default=3, help='every so many test images')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = measure(Config.fromfile(args.config), args.checkpoint, args.step)
    results = read_results(JSON) | {model_of(args.checkpoint): found}
    write_json(JSON, results)
    print('\n'.join(sections(results)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
