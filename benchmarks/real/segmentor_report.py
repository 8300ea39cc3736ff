"""Tables of the real segmentors, from the statistics of `benchmarks.real.segmentors`.

python -m benchmarks.real.segmentor_report --split test
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.files import read_results
from benchmarks.common.statistics import image_draws
from benchmarks.common.tables import interval, markdown_table
from mmdiscard.utils import write_json

from .segmentors import (
    AREAS,
    COMPARED,
    DISTANCES,
    OUT,
    PLAIN,
    TILE_SHARES,
    TILES,
    procedures,
)

DRAWS = 2000
GATED = (1.4, 2.0, 3.0)  # plain forwards
#: area of a view after padding to multiples of 32, in units of the plain view's
VIEW_AREAS = {'smaller': 288 * 384 / (384 * 480), 'larger': 480 * 608 / (384 * 480)}
CLASSES = ('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car')
CLASSES += ('pedestrian', 'bicyclist')
AREA_NAMES = (
    *(f'of objects of up to {area} px' for area in AREAS),
    f'of objects of more than {AREAS[-1]} px',
)
DISTANCE_NAMES = (
    *(f'up to {distance} px from an edge' for distance in DISTANCES),
    f'more than {DISTANCES[-1]} px from an edge',
)
JSON = Path('benchmarks/real/segmentors.json')


def miou(confusion: np.ndarray) -> np.ndarray:
    """Mean over classes in percent: ``(..., K, K)`` counts -> ``(...)``."""
    return 100 * class_iou(confusion).mean(-1)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, 0..1: ``(..., K, K)`` -> ``(..., K)``."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return right / np.maximum(confusion.sum(-1) + confusion.sum(-2) - right, 1)


def miou_gain(after: np.ndarray, before: np.ndarray, weights: np.ndarray) -> tuple[float, ...]:
    """Points of mIoU, mean over seeds, and its 95 % interval by paired bootstrap over images.

    Args:
        after: confusions ``(seeds, images, K, K)``.
        before: of the same images.
        weights: ``(draws, images)``, see `image_draws`.
    """

    def mean_gain(weights: np.ndarray) -> np.ndarray:
        """Of images drawn so many times: ``(draws, images)`` -> ``(draws,)``."""
        values = [
            np.mean([miou(np.tensordot(weights, one, 1)) for one in counts], axis=0)
            for counts in (after, before)
        ]
        return values[0] - values[1]

    here = mean_gain(np.ones((1, before.shape[1])))[0]
    return tuple(map(float, (here, *np.percentile(mean_gain(weights), [2.5, 97.5]))))


def trainings_by_model(folder: Path, split: str) -> dict[str, list[Path]]:
    """Files ``NAME-seedN_SPLIT.npz`` of a folder, one per training, by name of the model."""
    by_model: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f'*_{split}.npz')):
        by_model.setdefault(model_of(path), []).append(path)
    return by_model


def model_of(path: Path) -> str:
    """Name of the model in the name of a checkpoint or of a file of statistics."""
    return path.stem.rsplit('-seed', 1)[0]


class Trainings:
    """Statistics of the trainings of one model on the same images.

    Args:
        paths: files of `benchmarks.real.segmentors`, one per training.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.name = paths[0].stem.split('_')[0]
        loaded = [dict(np.load(path)) for path in paths]
        self.seeds = len(loaded)
        about = json.loads(str(loaded[0]['about']))
        self.names: list[str] = about['procedures']
        self.auto: int = about['auto']
        self.costs = {int(group): costs for group, costs in about['costs'].items()}
        self.named = procedures(self.auto, list(self.costs))
        self.arrays = {
            key: np.stack([one[key] for one in loaded]) for key in loaded[0] if key != 'about'
        }
        self.weights = image_draws(self.arrays['confusion'].shape[2], DRAWS)

    def confusion(self, name: str) -> np.ndarray:
        """``(seeds, images, K, K)``."""
        return self.arrays['confusion'][:, self.names.index(name)]

    def in_tiles(self, name: str, tile: int, share: float) -> np.ndarray:
        """The same of a procedure that is used in the unsure tiles alone."""
        indices = COMPARED.index(name), TILES.index(tile), TILE_SHARES.index(share)
        order = [one for one in self.names if one in COMPARED].index(name)
        return self.arrays['tiles'][:, order, :, indices[1], indices[2]]

    def by_place(self, name: str) -> np.ndarray:
        """Pixels and right ones: ``(seeds, images, 2, areas, distances)``."""
        order = [one for one in self.names if one in (PLAIN, *COMPARED)].index(name)
        counts = self.arrays['places'][:, order]
        return counts.reshape(*counts.shape[:-1], len(AREAS) + 1, len(DISTANCES) + 1)

    def place_rows(self) -> list[dict]:
        """Share of the pixels that are right, plain and gain, by size of object and distance."""
        plain = self.by_place(PLAIN)
        rows = []
        for kind, axis, labels in (('object', -1, AREA_NAMES), ('edge', -2, DISTANCE_NAMES)):
            before = plain.sum(axis)
            share = before[:, :, 0].sum((0, 1)) / before[:, :, 0].sum()
            gains = {
                name: self._accuracy_gains(self.by_place(name).sum(axis), before)
                for name in COMPARED
            }
            for index, label in enumerate(labels):
                pixels, right = before[..., index].sum((0, 1))
                rows.append(
                    dict(
                        kind=kind,
                        place=label,
                        share=float(100 * share[index]),
                        plain=float(100 * right / pixels),
                        gains={name: found[index] for name, found in gains.items()},
                    )
                )
        return rows

    def _accuracy_gains(self, after: np.ndarray, before: np.ndarray) -> list[tuple[float, ...]]:
        """Points and 95 % intervals per place, of counts ``(seeds, images, 2, places)``."""
        changed = (after[:, :, 1] - before[:, :, 1]).sum(0)
        pixels = before[:, :, 0].sum(0)
        drawn = 100 * (self.weights @ changed) / np.maximum(self.weights @ pixels, 1)
        here = 100 * changed.sum(0) / np.maximum(pixels.sum(0), 1)
        limits = np.percentile(drawn, [2.5, 97.5], axis=0)
        return [tuple(map(float, row)) for row in zip(here, *limits, strict=True)]

    def gain(self, after: np.ndarray, before: np.ndarray | None = None) -> tuple[float, ...]:
        """Points of mIoU, mean over seeds, and its 95 % interval by bootstrap over images."""
        before = self.confusion(PLAIN) if before is None else before
        return miou_gain(after, before, self.weights)

    def cost(self, name: str) -> float | None:
        """Multiply-accumulates in plain forwards; None where they differ from image to image."""
        if name.startswith('paper'):
            return None
        if 'features' in name:
            name = '2 states'
        total = 0.0
        for atoms in self.named[name]:
            area = VIEW_AREAS.get(atoms[0].split()[0], 1.0)
            for atom in atoms:
                if ' group ' not in atom:
                    total += area
            groups = [int(atom.split('group ')[1].split()[0]) for atom in atoms if 'group' in atom]
            if groups:
                pair, four = self.costs[groups[0]]
                extra = four if len(groups) == 3 else pair
                # A displaced state whose default state is not computed costs a whole forward.
                alone = len(groups) == len(atoms)
                total += area * (1.0 if alone else extra - 1)
        return total

    def rows(self) -> list[dict]:
        """A row per procedure."""
        arrays = self.arrays
        pixels = self.confusion(PLAIN).sum((1, 2, 3))
        rows = []
        for index, name in enumerate(self.names):
            if name.startswith('shifted'):
                continue
            confusion = self.confusion(name)
            rows.append(
                dict(
                    procedure=name,
                    cost=self.cost(name),
                    miou=float(np.mean(miou(confusion.sum(1)))),
                    gain=self.gain(confusion),
                    nll=float(np.mean(arrays['nll'][:, index].sum(1) / pixels)),
                    ece=float(
                        np.mean(np.abs(arrays['gap'][:, index].sum(1)).sum(1) / pixels) * 100
                    ),
                    mended=float(np.mean(arrays['mended'][:, index].sum(1) / pixels) * 100),
                    broken=float(np.mean(arrays['broken'][:, index].sum(1) / pixels) * 100),
                    per_class=(100 * class_iou(confusion.sum(1)).mean(0)).tolist(),
                )
            )
        for place, name in enumerate((PLAIN, '2 states')):
            row = next(row for row in rows if row['procedure'] == name)
            row['unstable'] = float(100 * arrays['unstable'][:, place].mean())
        return rows

    def gate_rows(self) -> list[dict]:
        """A procedure for the least sure images alone, so many that they cost `GATED` on average.

        Images are ranked by the mean entropy of the plain prediction.
        """
        order = self.arrays['entropy'][:, 0].argsort(1).argsort(1)  # (seeds, images), sure first
        images, rows = order.shape[1], []
        for name in ('flip', 'flip, 2 states each'):
            for cost in GATED:
                share = (cost - 1) / (self.cost(name) - 1)
                if share >= 1:
                    continue
                looked = order >= images - round(share * images)
                chosen = looked[..., None, None]
                after = np.where(chosen, self.confusion(name), self.confusion(PLAIN))
                share = float(looked.mean())
                rows.append(dict(procedure=name, cost=cost, share=share, gain=self.gain(after)))
        return rows

    def tile_rows(self) -> list[dict]:
        """Gain of procedures that are used in a share of the tiles."""
        return [
            dict(
                procedure=name,
                tile=tile,
                whole=self.gain(self.confusion(name)),
                shares={
                    share: self.gain(self.in_tiles(name, tile, share)) for share in TILE_SHARES
                },
            )
            for name in COMPARED
            for tile in TILES
        ]


def place_table(rows: Sequence[dict]) -> list[str]:
    """Markdown: where the pixels lie that become right."""
    shown = ('2 states', 'flip', 'flip, 2 states each', 'three sizes')
    return markdown_table(
        ['pixels', 'share of all', 'plain', *shown],
        [
            [
                row['place'],
                f'{row["share"]:.1f} %',
                f'{row["plain"]:.1f}',
                *(interval(row['gains'][name]) for name in shown),
            ]
            for row in rows
        ],
    )


def main_table(rows: Sequence[dict]) -> list[str]:
    """Markdown of one model."""
    header = ['procedure', 'cost', 'mIoU', 'gain', 'mended %', 'broken %', 'NLL', 'ECE', 'unstable']
    return markdown_table(
        header,
        [
            [
                row['procedure'],
                '' if row['cost'] is None else f'{row["cost"]:.2f}',
                f'{row["miou"]:.2f}',
                '' if row['procedure'] == PLAIN else interval(row['gain']),
                f'{row["mended"]:.2f}',
                f'{row["broken"]:.2f}',
                f'{row["nll"]:.4f}',
                f'{row["ece"]:.2f}',
                f'{row["unstable"]:.2f}' if 'unstable' in row else '',
            ]
            for row in rows
        ],
    )


def class_table(rows: Sequence[dict]) -> list[str]:
    """Markdown: the IoU of every class, for procedures that are compared most."""
    shown = [row for row in rows if row['procedure'] in (PLAIN, *COMPARED)]
    body = [[row['procedure'], *(f'{iou:.1f}' for iou in row['per_class'])] for row in shown]
    return markdown_table(['procedure', *CLASSES], body)


def gate_table(rows: Sequence[dict]) -> list[str]:
    """Markdown: gain where only the least sure images are looked at again."""
    header = ['procedure', 'share of the images', 'cost', 'gain']
    body = [
        [row['procedure'], f'{row["share"]:.0%}', f'{row["cost"]:.1f}', interval(row['gain'])]
        for row in rows
    ]
    return markdown_table(header, body)


def tile_table(rows: Sequence[dict]) -> list[str]:
    """Markdown: gain against the share of tiles in which a procedure is used."""
    header = ['procedure', 'tile', *(f'{share:.0%}' for share in TILE_SHARES), 'whole image']
    return markdown_table(
        header,
        [
            [
                row['procedure'],
                f'{row["tile"]} px',
                *(f'{gain[0]:+.2f}' for gain in row['shares'].values()),
                interval(row['whole']),
            ]
            for row in rows
        ],
        text_columns=2,
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--split', choices=('val', 'test'), default='test')
    args = parser.parse_args(argv)
    results = read_results(JSON) if args.split == 'test' else {}  # others stay as they are
    for model, paths in trainings_by_model(OUT, args.split).items():
        trainings = Trainings(paths)
        images = trainings.confusion(PLAIN).shape[1]
        rows, tiles = trainings.rows(), trainings.tile_rows()
        print(f'\n### {model}: {trainings.seeds} trainings, {images} {args.split} images\n')
        print('\n'.join(main_table(rows)))
        print('\nUsed in the least sure tiles alone:\n')
        print('\n'.join(tile_table(tiles)))
        about = dict(model=model, split=args.split, seeds=trainings.seeds, images=images)
        gates = trainings.gate_rows()
        print('\nUsed for the least sure images alone:\n')
        print('\n'.join(gate_table(gates)))
        found = trainings.place_rows()
        print('\nRight pixels in percent, by where they lie:\n')
        print('\n'.join(place_table(found)))
        results[model] = about | dict(group=trainings.auto, rows=rows, tiles=tiles, places=found)
        results[model]['gates'] = gates
    if args.split == 'test':
        write_json(JSON, results)
    return 0


if __name__ == '__main__':
    sys.exit(main())
