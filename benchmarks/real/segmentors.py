"""What states, views and displaced images do for a real segmentor, image by image.

    python -m benchmarks.real.segmentors CONFIG CHECKPOINT --split test

Writes `work_dirs/real/segmentors/NAME_SPLIT.npz`, statistics per procedure and image, from which
`benchmarks.real.segmentor_report` makes tables. An interrupted run goes on with the next image.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from mmdiscard.models.views import split_views
from mmdiscard.utils import Progress

from .segmentor_atoms import IMAGE_STEPS, SegmentorAtoms

OUT = Path('work_dirs/real/segmentors')
BINS = 15
PLAIN = 'plain'
TILE_SHARES = (0.1, 0.2, 0.3, 0.4, 0.6)
TILES = (60, 30)
COMPARED = ('2 states', '4 states', 'flip', 'flip, 2 states each', 'flip, 4 states each')
COMPARED += ('plain and smaller flip', 'three sizes')
#: upper limits: area of an object in pixels, distance of a pixel from the next label in pixels
AREAS = (100, 1000, 10_000)
DISTANCES = (2, 8)
Atoms = TypeVar('Atoms', bound=SegmentorAtoms)
Procedure = list[tuple[str, ...]]  # per view, the atoms whose logits are averaged


def procedures(auto: int, groups: Sequence[int]) -> dict[str, Procedure]:
    """Every procedure: the mean over views of the softmax of mean logits.

    Args:
        auto: position of the group used where none is named.
        groups: positions of all groups.
    """

    def states(view: str, indices: Sequence[int], group: int = auto) -> tuple[str, ...]:
        return (view, *(f'{view} group {group} state {index}' for index in indices))

    def sizes(*indices: int) -> Procedure:
        return [states(view, indices) for view in ('smaller', PLAIN, 'larger')]

    def sizes_flip(*indices: int) -> Procedure:
        return sizes(*indices) + [
            states(view, indices) for view in ('smaller flip', 'flip', 'larger flip')
        ]

    found: dict[str, Procedure] = {
        PLAIN: [(PLAIN,)],
        'paper, 4 states': [('paper',)],
        '2 states': [states(PLAIN, (3,))],
        '2 states, probabilities': [(PLAIN,), states(PLAIN, (3,))[1:]],
        '2 states, features': [('features',)],
        '4 states': [states(PLAIN, (1, 2, 3))],
    }
    for group in groups:
        if group != auto:
            found[f'2 states, group {group}'] = [states(PLAIN, (3,), group)]
    for step in IMAGE_STEPS:
        found[f'image by {step} px'] = [(PLAIN, f'image {step} {step}')]
    return found | {
        '2 states, image by 8 px': [(*states(PLAIN, (3,)), 'image 8 8')],
        'flip': [(PLAIN,), ('flip',)],
        'flip, logits': [(PLAIN, 'flip')],
        'flip, 2 states each': [states(PLAIN, (3,)), states('flip', (3,))],
        'flip, 4 states each': [states(PLAIN, (1, 2, 3)), states('flip', (1, 2, 3))],
        'flip, opposite states': [(PLAIN,), states('flip', (3,))[1:]],
        'larger alone': [('larger',)],
        'plain and smaller': [(PLAIN,), ('smaller',)],
        'plain and smaller flip': [(PLAIN,), ('smaller flip',)],
        'plain and smaller flip, 2 states each': [
            states(PLAIN, (3,)),
            states('smaller flip', (3,)),
        ],
        'plain and larger': [(PLAIN,), ('larger',)],
        'plain and larger flip': [(PLAIN,), ('larger flip',)],
        'three sizes': sizes(),
        'three sizes, 2 states each': sizes(3),
        'three sizes and flip': sizes_flip(),
        'three sizes and flip, 2 states each': sizes_flip(3),
        'shifted': [('shifted',)],
        'shifted, 2 states': [('shifted', 'shifted state 3')],
    }


def merged(atoms: Mapping[str, Tensor], procedure: Procedure) -> Tensor:
    """Probabilities ``(K, H, W)``."""
    views = [torch.stack([atoms[name] for name in names]).mean(0) for names in procedure]
    return torch.stack([logits.softmax(0) for logits in views]).mean(0)


def places(labels: Tensor, classes: int) -> Tensor:
    """In how large an object every pixel lies, and how near its edge.

    An object is a connected component of one class. ``(H, W)`` labels to ``(H, W)`` long:
    ``area * (len(DISTANCES) + 1) + distance``, counted by the limits they exceed.
    """
    labels = labels.numpy()
    area = np.zeros(labels.shape, int)
    inside = np.ones(labels.shape, bool)
    for one in range(classes):
        objects, _ = ndimage.label(labels == one)
        sizes = np.bincount(objects.ravel())
        area += np.where(objects, sizes[objects], 0)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        before = [(0, 0), (0, 0)]
        after = [(0, 0), (0, 0)]
        before[axis], after[axis] = (1, 0), (0, 1)
        inside &= ~np.pad(differs, before) & ~np.pad(differs, after)
    distance = ndimage.distance_transform_edt(inside) + 1
    index = np.digitize(area, AREAS, right=True) * (len(DISTANCES) + 1)
    return torch.from_numpy(index + np.digitize(distance, DISTANCES, right=True))


def count_pairs(labels: Tensor, prediction: Tensor, classes: int) -> np.ndarray:
    """Counts ``(K, K)`` of label and prediction, two lists of numbers below ``classes``."""
    index = labels * classes + prediction
    return index.bincount(minlength=classes**2).view(classes, -1).numpy()


class Statistics:
    """What is kept of one image, per procedure.

    Args:
        labels: ``(H, W)`` long; values from ``K`` on are ignored.
        plain: probabilities ``(K, H, W)`` of the plain model.
    """

    def __init__(self, labels: Tensor, plain: Tensor) -> None:
        self.classes = len(plain)
        self.counted = labels < self.classes
        self.labels = labels[self.counted]
        self.plain = plain.argmax(0)
        self.entropy = -(plain * plain.clamp(min=1e-12).log()).sum(0)
        self._all_labels = labels

    @cached_property
    def place(self) -> Tensor:
        """`places` of the counted pixels."""
        return places(self._all_labels, self.classes)[self.counted]

    def confusion(self, prediction: Tensor) -> np.ndarray:
        """Counts ``(K, K)`` of label and prediction ``(H, W)``."""
        return count_pairs(self.labels, prediction[self.counted], self.classes)

    def of(self, probabilities: Tensor) -> dict[str, np.ndarray]:
        """All numbers of one procedure."""
        confidence, prediction = probabilities.max(0)
        right = prediction[self.counted] == self.labels
        was_right = self.plain[self.counted] == self.labels
        p_label = probabilities[:, self.counted].gather(0, self.labels[None])[0]
        confidence = confidence[self.counted]
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        gap = torch.bincount(bins, weights=right.double() - confidence, minlength=BINS)
        return {
            'confusion': self.confusion(prediction),
            'nll': -p_label.clamp(min=1e-12).log().sum(dtype=torch.float64).numpy(),
            'gap': gap.numpy(),
            'mended': (right & ~was_right).sum().numpy(),
            'broken': (~right & was_right).sum().numpy(),
        }

    def by_place(self, prediction: Tensor) -> np.ndarray:
        """Pixels and those that are right, by `places`: ``(2, areas * distances)``."""
        number = (len(AREAS) + 1) * (len(DISTANCES) + 1)
        right = self.place[prediction[self.counted] == self.labels]
        return torch.stack(
            [which.bincount(minlength=number) for which in (self.place, right)]
        ).numpy()

    def in_tiles(self, prediction: Tensor, tiles: Sequence[Sequence[Tensor]]) -> np.ndarray:
        """Confusions ``(tile sizes, shares, K, K)``, a procedure used in unsure tiles alone.

        Args:
            prediction: ``(H, W)`` of the procedure.
            tiles: masks ``(H, W)``, see `tile_masks`.
        """
        return np.stack(
            [
                [self.confusion(torch.where(mask, prediction, self.plain)) for mask in masks]
                for masks in tiles
            ]
        )


def tile_masks(score: Tensor) -> list[list[Tensor]]:
    """`unsure_tiles` of every size in `TILES` and every share in `TILE_SHARES`."""
    return [[unsure_tiles(score, tile, share) for share in TILE_SHARES] for tile in TILES]


def unsure_tiles(score: Tensor, tile: int, share: float) -> Tensor:
    """The tiles with the highest mean score: ``(H, W)`` bool.

    Args:
        score: ``(H, W)``, higher is less sure.
        tile: side in pixels.
        share: of the tiles.
    """
    means = F.avg_pool2d(score[None, None], tile, ceil_mode=True)[0, 0]
    chosen = torch.zeros_like(means, dtype=torch.bool).flatten()
    chosen[means.flatten().topk(round(share * means.numel())).indices] = True
    height, width = score.shape
    grown = chosen.view(means.shape).repeat_interleave(tile, 0).repeat_interleave(tile, 1)
    return grown[:height, :width]


def statistics_of(atoms: Mapping[str, Tensor], labels: Tensor, named: Mapping[str, Procedure]):
    """Arrays ``(P, ...)`` of one image."""
    statistics = Statistics(labels, merged(atoms, named[PLAIN]))
    masks = tile_masks(statistics.entropy)
    rows, tiles, by_place, predictions = [], [], [], {}
    for name, procedure in named.items():
        probabilities = merged(atoms, procedure)
        rows.append(statistics.of(probabilities))
        predictions[name] = probabilities.argmax(0)
        if name in COMPARED:
            tiles.append(statistics.in_tiles(predictions[name], masks))
        if name in (PLAIN, *COMPARED):
            by_place.append(statistics.by_place(predictions[name]))
    arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    arrays['entropy'] = statistics.entropy.mean().numpy()[None]
    arrays['tiles'] = np.stack(tiles)
    arrays['places'] = np.stack(by_place)
    inner = (slice(1, -1), slice(1, -1))  # not what moved in over the border
    arrays['unstable'] = np.array(
        [
            (predictions[a][inner] != predictions[b][inner]).float().mean().item()
            for a, b in ((PLAIN, 'shifted'), ('2 states', 'shifted, 2 states'))
        ]
    )
    return arrays


def images_of(config: Config, split: str) -> Iterator[tuple[list, Tensor]]:
    """Views and labels ``(H, W)`` of every image of a split."""
    from mmseg.registry import DATASETS

    dataset = config[f'{split}_dataloader'].dataset
    dataset.pipeline = config.tta_pipeline
    dataset = DATASETS.build(dataset)
    for index in range(len(dataset)):
        views = split_views(pseudo_collate([dataset[index]]))
        yield views, views[2]['data_samples'][0].gt_sem_seg.data[0].long()


def statistics_of_images(
    argv: list[str] | None,
    description: str,
    out: Path,
    make_atoms: Callable[[Config, Path], Atoms],
    make: Callable[[Atoms, list, Tensor], Mapping[str, np.ndarray]],
    step: int = 1,
) -> tuple[Atoms, list[dict[str, np.ndarray]], Path]:
    """Arrays of every image of a split, kept in a file each, so that a run can go on.

    Args:
        argv: command line: config, checkpoint, ``--split`` and ``--step``.
        description: of the command.
        out: folder of the results.
        make_atoms: from config and checkpoint.
        make: arrays from atoms, the views of an image and its labels.
        step: default of ``--step``.

    Returns:
        The atoms, the arrays of all images, and the file for what is made of them.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--split', choices=('val', 'test'), default='test')
    parser.add_argument('--step', type=int, default=step, help='every so many images')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    config = Config.fromfile(args.config)
    atoms = make_atoms(config, args.checkpoint)
    name = f'{args.checkpoint.stem}_{args.split}'
    kept = out / name
    kept.mkdir(parents=True, exist_ok=True)
    total = len(list((Path(config.data_root) / 'labels' / args.split).iterdir()))
    progress = Progress(-(-total // args.step), f'images of {name}')
    for index, (views, labels) in enumerate(images_of(config, args.split)):
        if index % args.step:
            continue
        path = kept / f'{index:04d}.npz'
        if not path.is_file():
            with torch.no_grad():
                np.savez_compressed(path, **make(atoms, views, labels))
        progress.step()
    loaded = [dict(np.load(path)) for path in sorted(kept.glob('*.npz'))]
    return atoms, loaded, out / f'{name}.npz'


def save_statistics(
    path: Path, loaded: Sequence[Mapping[str, np.ndarray]], about: Mapping, axis: int = 0
) -> None:
    """Write the arrays of all images as one file.

    Args:
        path: of the file.
        loaded: arrays of each image.
        about: what else a report needs, as JSON.
        axis: of the images.
    """
    arrays = {key: np.stack([one[key] for one in loaded], axis=axis) for key in loaded[0]}
    np.savez_compressed(path, about=json.dumps(about), **arrays)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""

    def named(atoms: SegmentorAtoms) -> dict[str, Procedure]:
        return procedures(atoms.auto, list(atoms.groups))

    atoms, loaded, path = statistics_of_images(
        argv,
        __doc__.split('\n')[0],
        OUT,
        SegmentorAtoms,
        lambda atoms, views, labels: statistics_of(dict(atoms.of(views)), labels, named(atoms)),
    )
    about = dict(procedures=list(named(atoms)), auto=atoms.auto, costs=atoms.costs)
    save_statistics(path, loaded, about, axis=1)
    return 0


if __name__ == '__main__':
    sys.exit(main())
