"""The comparison of test-time augmentation with and without mmdiscard, as a page and a figure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from benchmarks.common.figures import pyplot, save_figure
from benchmarks.common.statistics import Interval, paired_interval
from benchmarks.common.tables import markdown_table

PLAIN = 'plain'
ALONE = 'mmdiscard, one view'


@dataclass(frozen=True)
class ComparedModel:
    """Results of one model.

    Attributes:
        title: names model and metric.
        runs: per checkpoint what `benchmarks.tta.compare.compare` returned.
        states: total budget -> states per view with mmdiscard.
    """

    title: str
    runs: Sequence[Mapping[str, Any]]
    states: Mapping[int, int]

    @property
    def plain(self) -> list[float]:
        """The metric of the plain model, per checkpoint."""
        return [run['1']['rows'][PLAIN]['1'] for run in self.runs]

    @property
    def rows(self) -> list[str]:
        """Names of the mergers."""
        return [row for row in self.runs[0]['1']['rows'] if row != PLAIN]

    def alone(self, budget: int) -> list[float]:
        """The metric of one view with as many states as each view has at a total budget."""
        level = str(self.states[budget])
        return [run[level]['rows'][ALONE][level] for run in self.runs]

    def metrics(self, row: str, budget: int, with_states: bool) -> list[float]:
        """The metric of a row, per checkpoint.

        Args:
            row: name of the merger.
            budget: total.
            with_states: with mmdiscard, or views alone.
        """
        level = str(self.states[budget]) if with_states else '1'
        return [run[level]['rows'][row][str(budget)] for run in self.runs]

    def cost(self, budget: int, with_states: bool) -> float:
        """Plain forwards that a total budget costs."""
        return budget // self.states[budget] * self.cost_of_view(budget) if with_states else budget

    def cost_of_view(self, budget: int) -> float:
        """Plain forwards that one view costs with its states."""
        return statistics.fmean(run[str(self.states[budget])]['cost'] for run in self.runs)


def tables(model: ComparedModel) -> list[str]:
    """Lines of two tables: all rows, and what mmdiscard adds to each."""
    return [*_all_rows(model), '', *_added(model)]


def _all_rows(model: ComparedModel) -> list[str]:
    count, states = len(model.runs), model.states
    rows = [
        [PLAIN, f'{statistics.fmean(model.plain):.2f}', *[''] * (len(states) - 1)],
        [ALONE, *(_alone(model, budget) for budget in states)],
    ]
    for row in model.rows:
        for with_states in (False, True):
            cells = [_with_gain(model, model.metrics(row, b, with_states)) for b in states]
            rows.append([row + ' + mmdiscard' * with_states, *cells])
    for with_states, name in ((False, 'TTA'), (True, 'TTA + mmdiscard')):
        costs = [f'{model.cost(budget, with_states):.1f}' for budget in states]
        rows.append([f'cost of {name}, plain forwards', *costs])
    return [
        f'{model.title}, {count} checkpoint(s); in brackets the gain over plain'
        f'{" with its 95 % interval" if count > 1 else ""}.',
        '',
        *markdown_table(['method', *(f'total budget {budget}' for budget in states)], rows),
    ]


def _alone(model: ComparedModel, budget: int) -> str:
    states, cost = model.states[budget], model.cost_of_view(budget)
    return f'{_with_gain(model, model.alone(budget))}, {states} states, cost {cost:.1f}'


def _with_gain(model: ComparedModel, metrics: Sequence[float]) -> str:
    return f'{statistics.fmean(metrics):.2f} ({paired_interval(model.plain, metrics)})'


def _added(model: ComparedModel) -> list[str]:
    def cell(row: str, budget: int) -> str:
        gain = added(model, row, budget)
        return f'**{gain}**' if _certain(gain) else str(gain)

    header = [f'{budget} = {budget // n} x {n}' for budget, n in model.states.items()]
    rows = [[row, *(cell(row, budget) for budget in model.states)] for row in model.rows]
    return [
        'What mmdiscard adds to each at the same total budget (views x states in its head); '
        'intervals that leave out 0 in bold.',
        '',
        *markdown_table(['method', *header], rows),
    ]


def added(model: ComparedModel, row: str, budget: int) -> Interval:
    """TTA with mmdiscard over TTA alone at the same total budget, paired by checkpoint.

    Args:
        model: results.
        row: name of the merger.
        budget: total.
    """
    return paired_interval(model.metrics(row, budget, False), model.metrics(row, budget, True))


def _certain(gain: Interval) -> bool:
    return not math.isnan(gain.half_width) and abs(gain.mean) > gain.half_width


def draw_budgets(models: Sequence[ComparedModel], path: str | PathLike) -> None:
    """Metric against total budget: one panel per model, one colour per merger.

    Args:
        models: at least one.
        path: picture file.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, len(models), figsize=(4.4 * len(models), 3.6), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        budgets = list(model.states)
        axis.axhline(statistics.fmean(model.plain), color='black', linewidth=1, label='plain')
        for number, row in enumerate(model.rows):
            for with_states, line in ((False, ':'), (True, '-')):
                means = [
                    statistics.fmean(model.metrics(row, budget, with_states)) for budget in budgets
                ]
                label = row + ' + mmdiscard' * with_states
                axis.plot(budgets, means, line, color=f'C{number}', marker='.', label=label)
        axis.set_title(model.title, fontsize=9)
        axis.set_xlabel('total budget (views x states)')
        axis.set_xscale('log', base=2)
        axis.set_xticks(budgets, list(map(str, budgets)))
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=6, ncols=2)
    save_figure(figure, path)
