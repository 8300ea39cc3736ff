"""Report of a tuning: table, Markdown, JSON and a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..utils import markdown_table, report, write_atomically, write_json, write_text
from .gains import Gain, pareto
from .procedures import Procedure

HEADER = ('procedure', 'gain', '95 % interval', 'time', 'predicted', 'NLL', 'ECE')


@dataclass(frozen=True)
class Row:
    """A procedure and what it did.

    Attributes:
        procedure: what was measured.
        gain: its metric and gain.
        cost: measured time, in plain forwards.
        predicted: multiply-accumulates, in plain forwards.
        nll: mean negative log likelihood, in nats.
        ece: expected calibration error in percent.
    """

    procedure: Procedure
    gain: Gain
    cost: float
    predicted: float
    nll: float
    ece: float


@dataclass(frozen=True)
class Report:
    """All procedures, and the choice.

    Attributes:
        metric: its name.
        rows: plain first.
        chosen: position of the choice.
        images: number of images.
        about: what was asked for.
    """

    metric: str
    rows: Sequence[Row]
    chosen: int
    images: int
    about: Mapping[str, Any]

    @property
    def choice(self) -> Row:
        return self.rows[self.chosen]

    def summary(self) -> str:
        """One line about the choice."""
        name, limit = self.choice.procedure.name, f'{self.about["cost"]:g}'
        if self.chosen == 0:
            return f'plain: nothing gains for certain at a cost of at most {limit} plain forwards'
        gain = self.choice.gain
        return (
            f'{name}: {self.metric} {gain.metric:.2f}, {gain.mean:+.2f} over plain '
            f'({gain.low:+.2f} to {gain.high:+.2f}), at {self.choice.cost:.2f} times the time'
        )

    def table(self) -> str:
        """Markdown, the cheapest procedure first; the choice in bold."""
        order = sorted(range(len(self.rows)), key=lambda i: (i != 0, self.rows[i].cost))
        header = [HEADER[0], self.metric, *HEADER[1:]]
        return '\n'.join(markdown_table(header, [self._cells(index) for index in order])) + '\n'

    def comments(self) -> str:
        """For the head of the config."""
        about = self.about
        return (
            f'# Chosen by mmdiscard for {about["config"]} and {about["checkpoint"]}\n'
            f'# on {self.images} images of split {about["split"]}: {self.summary()}.\n'
        )

    def write(self, folder: Path) -> None:
        """Write ``table.md``, ``results.json`` and, with matplotlib, ``gain.png``."""
        about = f'{self.images} images of split {self.about["split"]}. {self.summary()}.'
        write_text(folder / 'table.md', f'{self.table()}\n{about}\n')
        rows = [
            dict(asdict(row), name=row.procedure.name, views=row.procedure.views)
            for row in self.rows
        ]
        content = dict(self.about, metric=self.metric, images=self.images, rows=rows)
        front = [self.rows[index].procedure.name for index in self._front()]
        chosen = self.choice.procedure.name
        write_json(folder / 'results.json', content | dict(chosen=chosen, pareto=front))
        try:
            self.draw(folder / 'gain.png')
        except ImportError:
            report('no figure: matplotlib is not installed')

    def draw(self, path: Path) -> None:
        """Gain against cost, the Pareto front as a line.

        Raises:
            ImportError: if matplotlib is absent.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5))
        FigureCanvasAgg(figure)
        axis = figure.add_subplot()
        gains = [row.gain for row in self.rows]
        means = [gain.mean for gain in gains]
        below = [max(gain.mean - gain.low, 0) for gain in gains]
        above = [max(gain.high - gain.mean, 0) for gain in gains]
        costs = [row.cost for row in self.rows]
        axis.errorbar(costs, means, (below, above), fmt='o', color='0.6', elinewidth=0.7)
        front = self._front()
        axis.plot([costs[i] for i in front], [means[i] for i in front], '-o', color='C0')
        for index in front:
            name = self.rows[index].procedure.name
            place = dict(xytext=(4, 4), textcoords='offset points', size=7)
            axis.annotate(name, (costs[index], means[index]), **place)
        axis.plot(self.choice.cost, self.choice.gain.mean, 's', color='C1', label='chosen')
        axis.axvline(self.about['cost'], color='0.7', linestyle=':')
        axis.set_xlabel('time (plain forwards)')
        axis.set_ylabel(f'gain in {self.metric} (points), 95 % interval')
        axis.legend(loc='lower right')
        figure.tight_layout()
        write_atomically(path, lambda partial: figure.savefig(partial, format='png', dpi=110))

    def _front(self) -> list[int]:
        return pareto([row.gain for row in self.rows], [row.cost for row in self.rows])

    def _cells(self, index: int) -> list[str]:
        row, gain = self.rows[index], self.rows[index].gain
        name = row.procedure.name
        interval = f'{gain.low:+.2f} to {gain.high:+.2f}'
        return [
            f'**{name}**' if index == self.chosen else name,
            f'{gain.metric:.2f}',
            *(['', ''] if index == 0 else [f'{gain.mean:+.2f}', interval]),
            *(f'{cost:.2f}' for cost in (row.cost, row.predicted)),
            f'{row.nll:.3f}',
            f'{row.ece:.2f}',
        ]
