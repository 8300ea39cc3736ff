"""What `mmdiscard.tune` chooses on the real models for several costs, and what that gains.

    python -m benchmarks.real.choices --images FOLDER    # FOLDER as for benchmarks.real.classifiers

Segmentors choose on validation images of CamVid and are measured on test images; classifiers choose
on one half of their images and are measured on the other. Writes `benchmarks/real/choices.json`; a
model that is there already is not measured again.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from benchmarks.common.files import read_results
from benchmarks.common.tables import interval, markdown_table
from benchmarks.common.tuned_procedures import choose_for, difference, measure_on_test
from mmdiscard.tuning import PLAIN
from mmdiscard.utils import write_json, write_text

from .classifiers import MODELS, WEIGHTS, choosing

OUT = Path('work_dirs/real/choices')
JSON = Path('benchmarks/real/choices.json')
COSTS = (3.0, 2.0, 1.5)  # the largest first: the others need no predictions of their own
CONFIGS = Path('configs/camvid')
CHECKPOINTS = Path('benchmarks/real/checkpoints')
SEGMENTORS = (
    'segformer_efficientnet-lite0',
    'deeplabv3plus_mobilenet-v2-d16',
    'fcn_mobilenet-v2-d8',
)
SIZE = 160  # of classifiers, in pixels
#: images to choose on, and of the test
SEGMENTED, CLASSIFIED = (24, 39), (200, 650)
FLAGS = ('--states', '2', '--groups', 'auto', '--no-pin-memory')


def measure(argv: Sequence[str], images: int) -> dict:
    """Choices for all costs and what they gain on test images.

    Args:
        argv: arguments of the tool.
        images: number of test images.
    """
    chosen = {cost: choose_for(argv, cost) for cost in COSTS}
    test = measure_on_test(argv, [one.procedure for one in chosen.values()], images)
    rows = [
        dict(
            limit=cost,
            procedure=one.procedure.name,
            chosen_on=[one.row['gain'][key] for key in ('mean', 'low', 'high')],
            gain=difference([test], [one.procedure.name], [PLAIN]),
            cost=test.cost(one.procedure.name),
            predicted=one.row['predicted'],
            seconds=one.seconds,
        )
        for cost, one in sorted(chosen.items())
    ]
    images = [next(iter(chosen.values())).images, len(test.statistics)]
    return dict(images=images, metric=test.measure.name, plain=test.metric(PLAIN), rows=rows)


def segmentor_arguments() -> Iterator[tuple[str, list[str]]]:
    """Names and arguments of the tool."""
    for name in SEGMENTORS:
        stem = f'{name}_1xb8-40e_camvid-480x360'
        files = [CONFIGS / f'{stem}.py', CHECKPOINTS / f'{stem}-seed0.pth']
        yield name, [*map(str, files), '--images', str(SEGMENTED[0])]


def classifier_arguments(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Names and arguments of the tool.

    Args:
        folder: of images and labels.
    """
    for name, classifier in MODELS.items():
        path = OUT / f'{name}.py'
        classifier_config(name, folder).dump(path)
        weights = WEIGHTS / f'{classifier.weights}_classifier.pth'
        yield name, [str(path), str(weights), '--images', str(CLASSIFIED[0])]


def classifier_config(name: str, folder: Path) -> Config:
    """A config whose validation and test images are the two halves.

    Args:
        name: of the classifier.
        folder: of images and labels.
    """
    classifier = MODELS[name]
    lines = (folder / 'labels.txt').read_text().splitlines()
    chooses = choosing(len(lines))
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(
            type='ResizeEdge',
            scale=round(SIZE / classifier.crop),
            edge='short',
            backend='pillow',
            interpolation='bicubic',
        ),
        dict(type='CenterCrop', crop_size=SIZE),
        dict(type='PackInputs'),
    ]
    if classifier.upside_down:
        pipeline.insert(-1, dict(type='RandomFlip', prob=1.0, direction='diagonal'))
    loaders = {}
    for split in ('val', 'test'):
        file = OUT / f'{split}.txt'
        own = [line for line, one in zip(lines, chooses, strict=True) if one == (split == 'val')]
        write_text(file, '\n'.join(own) + '\n')
        loaders[f'{split}_dataloader'] = dict(
            batch_size=10,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='CustomDataset',
                data_prefix=str(folder / 'images'),
                ann_file=str(file.resolve()),
                pipeline=pipeline,
            ),
        )
    preprocessor = dict(num_classes=1000, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
    evaluator = dict(type='Accuracy', topk=(1,))
    return Config(
        dict(
            default_scope='mmpretrain',
            model=classifier.config | dict(data_preprocessor=preprocessor),
            val_evaluator=evaluator,
            test_evaluator=evaluator,
            val_cfg=dict(),
            test_cfg=dict(),
            **loaders,
        )
    )


def table(results: Mapping[str, dict]) -> list[str]:
    """Markdown: what is chosen, and what it gains."""
    header = ['model', 'cost at most', 'choice', 'cost', 'gain where chosen', 'gain on test images']
    return markdown_table(
        header,
        [
            [
                name,
                f'{row["limit"]:g}',
                row['procedure'],
                f'{row["cost"]:.2f}',
                *(
                    '' if row['procedure'] == PLAIN else interval(row[key])
                    for key in ('chosen_on', 'gain')
                ),
            ]
            for name, one in results.items()
            for row in one['rows']
        ],
        text_columns=3,
    )


def sections(results: Mapping[str, dict]) -> list[str]:
    """Lines of the page."""
    images = [
        f'{name}: {one["images"][0]} images to choose on, {one["images"][1]} test images, plain '
        f'{one["metric"]} {one["plain"]:.2f}.'
        for name, one in results.items()
    ]
    intro = [
        'Choices of `mmdiscard.tune` for a cost of at most 1.5, 2 and 3 plain forwards, made on',
        'validation images (classifiers: on one half, at 160 px), and what they gain on test',
        'images (the other half). Cost is the median time on the test images.',
    ]
    return ['## What tune chooses', '', *intro, '', *table(results), '', *images]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--images', type=Path, help='folder of classified images; none: segmentors')
    args = parser.parse_args(argv)
    jobs = [(name, own, SEGMENTED[1]) for name, own in segmentor_arguments()]
    if args.images:
        jobs += [(name, own, CLASSIFIED[1]) for name, own in classifier_arguments(args.images)]
    results = read_results(JSON)
    for name, own, images in jobs:
        if name not in results:
            own = [*own, *FLAGS, '--work-dir', str(OUT / name)]
            results[name] = measure(own, images)
            write_json(JSON, results)
    print('\n'.join(table(results)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
