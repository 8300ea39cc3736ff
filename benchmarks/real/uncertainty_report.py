"""Tables of how sure merged predictions are, of what ranks unsure regions, and of gates.

    python -m benchmarks.real.uncertainty_report

Reads what `benchmarks.real.uncertainty` and `benchmarks.real.classifiers` wrote; writes
`benchmarks/real/uncertainty.json`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.tables import markdown_table
from mmdiscard.utils import write_json

from . import classifier_gates
from .classifier_report import PROCEDURES as CLASSIFIER_PROCEDURES
from .classifier_report import Logits, calibration_error
from .classifiers import LOGITS
from .risk import area_under_risk_coverage, histogram, interval
from .segmentor_report import miou
from .segmentors import TILE_SHARES, TILES
from .uncertainty import (
    OUT,
    PLAIN,
    PROCEDURES,
    RANKINGS,
    SCORES,
    SECOND_LOOKS,
    disagreement,
    entropy_in_bits,
)

JSON = Path('benchmarks/real/uncertainty.json')
#: second looks on the page; the JSON has all
SHOWN = ('flip', 'flip, 2 states each')
#: of classifiers: procedures of `classifier_report`, whose logits are averaged
CLASSIFIED = ('plain', '2 states, second deepest', '4 states, second deepest', '3 states, both')
CLASSIFIED += ('flip', 'flip, 2 states each, second')


def risk_rows(
    names: Sequence[str], counts: np.ndarray, calibration: Sequence[float]
) -> Iterator[dict]:
    """A row per procedure and score.

    Args:
        names: of the procedures, the plain model first.
        counts: ``(images, procedures, scores, 2, BINS)``, see `risk.histogram`.
        calibration: expected calibration error of each procedure in percent.
    """
    before = counts[:, 0, 0]
    for place, name in enumerate(names):
        for kind, score in enumerate(SCORES):
            if name == PLAIN and score == 'disagreement':
                continue
            own = counts[:, place, kind]
            total = own.sum((0, 2))
            yield dict(
                procedure=name,
                score=score,
                wrong=float(100 * total[1] / total.sum()),
                aurc=float(100 * area_under_risk_coverage(own.sum(0))),
                gain=None if (place, kind) == (0, 0) else interval(before, own),
                ece=calibration[place] if kind == 0 else None,
            )


def segmentor(name: str) -> dict:
    """Figures of one segmentor; ``name`` is that of its checkpoint."""
    test, val = (dict(np.load(OUT / f'{name}_{split}.npz')) for split in ('test', 'val'))
    pixels = test['confusion'][:, 0].sum()
    calibration = [float(100 * np.abs(gap).sum() / pixels) for gap in test['gap'].sum(0)]
    return dict(
        model=name.rsplit('-seed', 1)[0],
        images=len(test['counts']),
        chosen_on=len(val['counts']),
        costs=json.loads(str(test['about'])),
        rows=list(risk_rows(list(PROCEDURES), test['counts'], calibration)),
        tiles=list(tile_rows(test, val)),
    )


def tile_rows(test: Mapping[str, np.ndarray], val: Mapping[str, np.ndarray]) -> Iterator[dict]:
    """For every second look and tile size, the gain by ranking and share, on both splits."""

    def gains(arrays: Mapping[str, np.ndarray], look: int) -> tuple[float, np.ndarray]:
        confusion = arrays['confusion'].sum(0)
        plain = miou(confusion[0])
        whole = miou(confusion[list(PROCEDURES).index(SECOND_LOOKS[look])]) - plain
        return float(whole), miou(arrays['tiles'].sum(0)[:, look]) - plain

    for look, name in enumerate(SECOND_LOOKS):
        (whole, found), (whole_val, found_val) = (gains(arrays, look) for arrays in (test, val))
        for size, tile in enumerate(TILES):
            for place, ranking in enumerate(RANKINGS):
                yield dict(
                    procedure=name,
                    tile=tile,
                    ranking=ranking,
                    whole=whole,
                    gains=found[place, size].tolist(),
                    whole_val=whole_val,
                    gains_val=found_val[place, size].tolist(),
                )


def classifier(logits: Logits) -> dict:
    """Figures of one classifier at one size."""
    counts, calibration = [], []
    for name in CLASSIFIED:
        atoms = CLASSIFIER_PROCEDURES[name]
        each = [torch.from_numpy(logits.mean([atom])).softmax(1) for atom in atoms]
        probabilities = torch.from_numpy(logits.mean(atoms)).softmax(1)
        confidence, prediction = probabilities.numpy().max(1), probabilities.argmax(1).numpy()
        wrong = prediction != logits.labels
        of_states = disagreement([one.T for one in each]).numpy()
        values = (1 - confidence, entropy_in_bits(probabilities).numpy(), of_states)
        counts.append(
            [
                [histogram(one[i : i + 1], wrong[i : i + 1]) for i in range(len(wrong))]
                for one in values
            ]
        )
        calibration.append(calibration_error(confidence, (~wrong).astype(float)))
    counts = np.asarray(counts, dtype=np.uint8).transpose(2, 0, 1, 3, 4)
    return dict(
        model=logits.model,
        size=int(logits.size),
        images=len(counts),
        rows=list(risk_rows(CLASSIFIED, counts, calibration)),
        gates=classifier_gates.rows([logits]),
    )


def risk_table(rows: Sequence[Mapping]) -> list[str]:
    """Markdown: risk and calibration."""
    header = ['procedure', 'ranked by', 'wrong %', 'AURC %', 'change', 'ECE %']
    return markdown_table(
        header,
        [
            [
                row['procedure'],
                row['score'],
                f'{row["wrong"]:.2f}',
                f'{row["aurc"]:.3f}',
                '' if row['gain'] is None else '{:+.3f} [{:+.3f}, {:+.3f}]'.format(*row['gain']),
                '' if row['ece'] is None else f'{row["ece"]:.2f}',
            ]
            for row in rows
        ],
        text_columns=2,
    )


def tile_table(rows: Sequence[Mapping]) -> list[str]:
    """Markdown: gain of a second look by what ranks the tiles; validation images in brackets."""
    header = ['second look', 'tile', 'tiles ranked by', *(f'{s:.0%}' for s in TILE_SHARES), 'all']
    return markdown_table(
        header,
        [
            [
                row['procedure'],
                f'{row["tile"]} px',
                row['ranking'],
                *(
                    f'{gain:+.2f} ({chosen:+.2f})'
                    for gain, chosen in zip(row['gains'], row['gains_val'], strict=True)
                ),
                f'{row["whole"]:+.2f} ({row["whole_val"]:+.2f})',
            ]
            for row in rows
        ],
        text_columns=3,
    )


def sections(results: Mapping) -> list[str]:
    """The lines of RESULTS.md."""
    lines = [
        '## How sure',
        '',
        'Area under the risk-coverage curve (AURC: error rate among the surest predictions, mean',
        'over coverages; lower is better) and expected calibration error of the confidence, by',
        'procedure and by what ranks its predictions; *change* is against the plain softmax, 95 %',
        'intervals by paired bootstrap over images.',
    ]
    for one in results['segmentors']:
        lines += ['', f'### {one["model"]}, {one["images"]} test images', '']
        lines += risk_table(one['rows'])
        lines += [
            '',
            'Gain (mIoU) of a second look in the least sure tiles alone, by what ranks them and by',
            f'share; in brackets on {one["chosen_on"]} validation images. *Disagreement* is that',
            f'of two states (cost {one["costs"]["pair"]:.2f}), *last group* of two states of that',
            f'group (cost {one["costs"]["last"]:.2f}); *errors* knows the labels.',
            '',
            *tile_table([row for row in one['tiles'] if row['procedure'] in SHOWN]),
        ]
    for one in results['classifiers']:
        lines += ['', f'### {one["model"]}, {one["size"]} px, {one["images"]} images', '']
        lines += risk_table(one['rows'])
        lines += ['', *classifier_gates.INTRODUCTION, '', *classifier_gates.table(one['gates'])]
    for one in results['pooled_gates']:
        lines += ['', f'### Second looks, {one["size"]} px, mean of {", ".join(one["models"])}', '']
        lines += [*classifier_gates.INTRODUCTION, '', *classifier_gates.table(one['gates'])]
    return lines


def main(argv: list[str] | None = None) -> int:
    """Print the tables and write them as JSON; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--sizes', nargs='+', type=int, default=[160], help='of the classifiers')
    args = parser.parse_args(argv)
    names = sorted(path.stem.removesuffix('_test') for path in OUT.glob('*_test.npz'))
    of_size = {
        size: [Logits(path) for path in sorted(LOGITS.glob(f'*_{size}_none.npz'))]
        for size in args.sizes
    }
    results = dict(
        segmentors=[segmentor(name) for name in names if (OUT / f'{name}_val.npz').is_file()],
        classifiers=[classifier(one) for ones in of_size.values() for one in ones],
        pooled_gates=[
            dict(size=size, models=[one.model for one in ones], gates=classifier_gates.rows(ones))
            for size, ones in of_size.items()
            if len(ones) > 1
        ],
    )
    print('\n'.join(sections(results)))
    write_json(JSON, results)
    return 0


if __name__ == '__main__':
    sys.exit(main())
