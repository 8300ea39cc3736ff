"""How sure merged predictions of a segmentor are, and what ranks unsure regions best.

    python -m benchmarks.real.uncertainty CONFIG CHECKPOINT --split test --step 6

Writes `work_dirs/real/uncertainty/NAME_SPLIT.npz`, from which `benchmarks.real.uncertainty_report`
makes tables. An interrupted run goes on with the next image.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdiscard.aggregation import Disagreement
from mmdiscard.aggregation.disagreement import entropy_in_bits

from .risk import histogram
from .segmentor_atoms import VIEWS, SegmentorAtoms
from .segmentors import PLAIN, Statistics, save_statistics, statistics_of_images, tile_masks

OUT = Path('work_dirs/real/uncertainty')
#: what is merged: of every view, logits of states are averaged, then probabilities of views
PROCEDURES: dict[str, list[tuple[str, ...]]] = {
    PLAIN: [('plain',)],
    '2 states': [('plain', 'plain 3')],
    '4 states': [('plain', 'plain 1', 'plain 2', 'plain 3')],
    'flip': [('plain',), ('flip',)],
    'flip, 2 states each': [('plain', 'plain 3'), ('flip', 'flip 3')],
}
SCORES = ('confidence', 'entropy', 'disagreement')
SECOND_LOOKS = ('2 states', 'flip', 'flip, 2 states each')
RANKINGS = ('entropy', 'margin', 'disagreement', 'disagreement, last group', 'errors')


class UncertaintyAtoms(SegmentorAtoms):
    """Only the states and views of `PROCEDURES`, and one state of the last group."""

    @torch.no_grad()
    def of(self, views: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
        """Names and logits ``(K, H, W)`` in the image's own frame."""
        last = max(self.groups)
        for name, group, indices in (
            ('plain', self.auto, (1, 2, 3)),
            ('flip', self.auto, (3,)),
            ('last', last, (3,)),
        ):
            images, samples = self._preprocessed(views[VIEWS['flip' if name == 'flip' else PLAIN]])
            metas = [sample.metainfo for sample in samples]
            if name != 'last':
                yield name, self._in_frame(self.model.encode_decode(images, metas), samples)
            maps = self._states(self.ensembles[group], images, metas, indices)
            for index, logits in maps.items():
                yield f'{name} {index}', self._in_frame(logits, samples)


def merged(atoms: Mapping[str, Tensor], views: list[tuple[str, ...]]) -> tuple[Tensor, Tensor]:
    """Probabilities ``(K, H, W)`` and disagreement ``(H, W)`` in bits, as mmdiscard merges them."""
    means = [torch.stack([atoms[name] for name in names]).mean(0).softmax(0) for names in views]
    within = [disagreement([atoms[name].softmax(0) for name in names]) for names in views]
    return torch.stack(means).mean(0), disagreement(means) + torch.stack(within).mean(0)


def disagreement(probabilities: Sequence[Tensor]) -> Tensor:
    """Of predictions ``(K, H, W)``, in bits: ``(H, W)``."""
    found = Disagreement(1)
    for one in probabilities:
        found.add(torch.tensor([0]), one[None])
    return found.result()[0]


def statistics_of(atoms: Mapping[str, Tensor], labels: Tensor) -> dict[str, np.ndarray]:
    """Arrays of one image."""
    plain = atoms[PLAIN].softmax(0)
    statistics = Statistics(labels, plain)
    counted, known = statistics.counted, labels[statistics.counted]
    counts, gaps, confusions, predictions = [], [], [], {}
    for name, views in PROCEDURES.items():
        probabilities, disagree = merged(atoms, views)
        confidence, prediction = probabilities.max(0)
        wrong = (prediction[counted] != known).numpy()
        values = (1 - confidence, entropy_in_bits(probabilities[None])[0], disagree)
        counts.append(np.stack([histogram(one[counted].numpy(), wrong) for one in values]))
        own = statistics.of(probabilities)
        gaps.append(own['gap'])
        confusions.append(own['confusion'])
        predictions[name] = prediction
    top = plain.topk(2, 0).values
    rankings = {
        'entropy': statistics.entropy,
        'margin': top[1] - top[0],
        'disagreement': disagreement([plain, atoms['plain 3'].softmax(0)]),
        'disagreement, last group': disagreement([plain, atoms['last 3'].softmax(0)]),
        'errors': (counted & (predictions[PLAIN] != labels)).float(),
    }
    tiles = []
    for name in RANKINGS:
        masks = tile_masks(rankings[name])
        tiles.append([statistics.in_tiles(predictions[look], masks) for look in SECOND_LOOKS])
    return dict(
        counts=np.stack(counts),
        gap=np.stack(gaps),
        confusion=np.stack(confusions),
        tiles=np.stack(tiles),
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    atoms, loaded, path = statistics_of_images(
        argv,
        __doc__.split('\n')[0],
        OUT,
        UncertaintyAtoms,
        lambda atoms, views, labels: statistics_of(dict(atoms.of(views)), labels),
        step=6,
    )
    last = max(atoms.groups)
    about = dict(pair=atoms.costs[atoms.auto][0], last=atoms.costs[last][0])
    save_statistics(path, loaded, about)
    return 0


if __name__ == '__main__':
    sys.exit(main())
