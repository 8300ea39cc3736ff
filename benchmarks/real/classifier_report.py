"""Tables of the real classifiers, from the logits of `benchmarks.real.classifiers`.

    python -m benchmarks.real.classifier_report

Half of the images, drawn with seed 0, chooses; the other half is reported. Settings that were fixed
before the images were looked at are also reported on all of them.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.common.statistics import Interval, paired_interval
from benchmarks.common.tables import markdown_table
from mmdiscard.utils import write_json

from .classifiers import LOGITS, MODELS, choosing

BINS = 15
PLAIN = 'plain'
JSON = Path('benchmarks/real/classifiers.json')


def displaced(group: int, view: str = 'plain', indices: Sequence[int] = (3,)) -> tuple[str, ...]:
    """Names of the displaced states of a group."""
    return tuple(f'group {group} state {index} {view}' for index in indices)


FAR = {group: displaced(group) for group in (-1, -2, 0)}
ALL = {group: displaced(group, indices=(1, 2, 3)) for group in (-1, -2)}
#: what is averaged (logits), by name of the procedure
PROCEDURES: dict[str, tuple[str, ...]] = {
    PLAIN: (PLAIN,),
    'paper, 10 states': ('paper',),
    '2 states, deepest group': (PLAIN, *FAR[-1]),
    '4 states, deepest group': (PLAIN, *ALL[-1]),
    '2 states, second deepest': (PLAIN, *FAR[-2]),
    '4 states, second deepest': (PLAIN, *ALL[-2]),
    '3 states, both': (PLAIN, *FAR[-1], *FAR[-2]),
    '7 states, both': (PLAIN, *ALL[-1], *ALL[-2]),
    '2 states, first group': (PLAIN, *FAR[0]),
    'image by 4 px': (PLAIN, 'image 4'),
    'image by 8 px': (PLAIN, 'image 8'),
    'image by 16 px': (PLAIN, 'image 16'),
    'flip': (PLAIN, 'flip'),
    'three sizes': (PLAIN, 'smaller', 'larger'),
    'flip, 2 states each, deepest': (PLAIN, *FAR[-1], 'flip', *displaced(-1, 'flip')),
    'flip, 2 states each, second': (PLAIN, *FAR[-2], 'flip', *displaced(-2, 'flip')),
    'flip and 7 states': (PLAIN, *ALL[-1], *ALL[-2], 'flip'),
}
#: the same of the image shifted by one pixel
SHIFTED = {
    PLAIN: ('shift 1',),
    '2 states, deepest group': ('shift 1', *displaced(-1, 'shift 1')),
    '2 states, second deepest': ('shift 1', *displaced(-2, 'shift 1')),
    '3 states, both': ('shift 1', *displaced(-1, 'shift 1'), *displaced(-2, 'shift 1')),
}


@dataclass
class Row:
    """What a procedure does on one set of images.

    Attributes:
        procedure: its name.
        cost: in multiply-accumulates of plain forwards.
        top1: in percent.
        gain: over the plain model in points, with the half width of its 95 % interval.
        chosen_on: gain on the half that chooses.
        reported_on: gain and half width on the other half.
        mended: number of predictions that became right.
        broken: number that became wrong.
        nll: mean negative log likelihood.
        ece: expected calibration error in percent, of 15 bins.
        unstable: share of predictions that a shift by one pixel changes, in percent.
    """

    procedure: str
    cost: float
    top1: float
    gain: tuple[float, float]
    chosen_on: float
    reported_on: tuple[float, float]
    mended: int
    broken: int
    nll: float
    ece: float
    unstable: float | None


class Logits:
    """The logits of one model at one size.

    Args:
        path: file of `benchmarks.real.classifiers`.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.model, self.size, self.corruption = path.stem.rsplit('_', 2)
        self.arrays = dict(np.load(path))
        self.labels = self.arrays.pop('labels')
        self.costs = json.loads(str(self.arrays.pop('costs')))
        self.chooses = choosing(len(self.labels))

    def mean(self, names: Sequence[str]) -> np.ndarray | None:
        """Mean logits ``(N, 1000)``; None if one of them was not computed."""
        if any(name not in self.arrays for name in names):
            return None
        return np.mean([self.arrays[name].astype(np.float32) for name in names], axis=0)

    def hits(self, procedure: str) -> np.ndarray | None:
        """100 where the prediction is right, else 0: ``(N,)``."""
        logits = self.mean(PROCEDURES[procedure])
        return None if logits is None else 100.0 * (logits.argmax(1) == self.labels)

    def cost(self, names: Sequence[str]) -> float:
        """In plain forwards; a displaced state costs what follows its group."""
        size = int(self.size)
        near = {'larger': 1.15, 'smaller': 0.87}
        total = 0.0
        for name in names:
            if name.startswith('group'):
                total += self.costs[' '.join(name.split()[:2])] - 1
            elif name == 'paper':
                total += self.costs.get('paper', float('nan'))
            else:
                total += (round(size * near[name] / 32) * 32 / size) ** 2 if name in near else 1
        return total

    def rows(self) -> list[Row]:
        """A row per procedure that was computed."""
        plain = self.hits(PLAIN)
        return [
            self._row(name, logits, plain)
            for name, atoms in PROCEDURES.items()
            if (logits := self.mean(atoms)) is not None
        ]

    def _row(self, name: str, logits: np.ndarray, plain: np.ndarray) -> Row:
        hits, half = 100.0 * (logits.argmax(1) == self.labels), self.chooses
        reported = paired_interval(plain[~half].tolist(), hits[~half].tolist())
        gain = paired_interval(plain.tolist(), hits.tolist())
        log_p = log_softmax(logits)
        return Row(
            procedure=name,
            cost=self.cost(PROCEDURES[name]),
            top1=float(hits.mean()),
            gain=(gain.mean, gain.half_width),
            chosen_on=float((hits - plain)[half].mean()),
            reported_on=(reported.mean, reported.half_width),
            mended=int((hits > plain).sum()),
            broken=int((hits < plain).sum()),
            nll=float(-log_p[np.arange(len(hits)), self.labels].mean()),
            ece=calibration_error(np.exp(log_p.max(1)), hits / 100),
            unstable=self._unstable(name, logits),
        )

    def _unstable(self, name: str, logits: np.ndarray) -> float | None:
        shifted = self.mean(SHIFTED.get(name, ('none',)))
        if shifted is None:
            return None
        return float(100 * (shifted.argmax(1) != logits.argmax(1)).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities ``(N, K)``."""
    below = logits - logits.max(1, keepdims=True)
    return below - np.log(np.exp(below).sum(1, keepdims=True))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error in percent: confidences and hits ``(N,)`` in 0..1, 15 bins."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(100 * np.abs(gaps).sum() / len(right))


def pooled(files: Sequence[Logits], procedure: str) -> Interval | None:
    """Gain over several sizes of the same images: of every image the mean over sizes."""
    pairs = [(one.hits(PLAIN), one.hits(procedure)) for one in files]
    if any(after is None for _, after in pairs):
        return None
    before, after = (np.mean(values, axis=0) for values in zip(*pairs, strict=True))
    return paired_interval(before.tolist(), after.tolist())


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown of one model at one size."""
    header = ('procedure', 'cost', 'top-1', 'gain', 'chosen on', 'reported on')
    header += ('mended', 'broken', 'NLL', 'ECE', 'unstable')
    return markdown_table(header, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    gains = [str(Interval(*gain)) for gain in (row.gain, row.reported_on)]
    if row.procedure == PLAIN:
        gains = ['', '']
    return [
        row.procedure,
        f'{row.cost:.2f}',
        f'{row.top1:.2f}',
        gains[0],
        f'{row.chosen_on:+.2f}' if gains[0] else '',
        gains[1],
        str(row.mended),
        str(row.broken),
        f'{row.nll:.3f}',
        f'{row.ece:.2f}',
        '' if row.unstable is None else f'{row.unstable:.1f}',
    ]


def pooled_table(by_model: Mapping[str, Sequence[Logits]]) -> list[str]:
    """Markdown: gain of every procedure, pooled over the sizes of a model."""
    names = [name for name in PROCEDURES if name != PLAIN]
    columns = {
        model: [(pooled(files, name), files[0].cost(PROCEDURES[name])) for name in names]
        for model, files in by_model.items()
    }
    rows = [
        [
            name,
            *(
                '' if column[i][0] is None else f'{column[i][0]} at {column[i][1]:.2f}'
                for column in columns.values()
            ),
        ]
        for i, name in enumerate(names)
    ]
    return markdown_table(['procedure', *by_model], rows)


def main() -> int:
    """Print the tables and write them as JSON; returns the exit status."""
    files = [Logits(path) for path in sorted(LOGITS.glob('*.npz'))]
    results = {}
    for one in files:
        rows = one.rows()
        print(f'\n### {one.model}, {one.size} px, corruption: {one.corruption}\n')
        print('\n'.join(table(rows)))
        names = dict(model=one.model, size=int(one.size), corruption=one.corruption)
        rows = [asdict(row) for row in rows]
        results[one.name] = names | dict(images=len(one.labels), rows=rows)
    clean = {
        model: [one for one in files if one.model == model and one.corruption == 'none']
        for model in MODELS
    }
    print('\n### Pooled over sizes\n')
    print('\n'.join(pooled_table({model: ones for model, ones in clean.items() if ones})))
    write_json(JSON, results)
    return 0


if __name__ == '__main__':
    sys.exit(main())
