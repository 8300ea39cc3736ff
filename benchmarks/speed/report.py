"""What a benchmark found, as a table and as a figure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from benchmarks.common.figures import pyplot, save_figure
from benchmarks.common.tables import markdown_table
from mmdiscard.errors import MMDiscardError

Record = Mapping[str, Any]
HEADER = ('method', 'B', 'time ratio', 'min-max', 'bound', 'ratio / bound', 'peak memory (MiB)')
HEADER += ('of plain', 'waits')


def table(records: Sequence[Record]) -> str:
    """Records as a table in Markdown; what was not measured is a dash."""
    return '\n'.join(markdown_table(HEADER, map(row, records)))


def page(report: Mapping[str, Any]) -> str:
    """A whole report: on what, of what, and the table."""
    machine = ', '.join(f'{key} {value}' for key, value in report['machine'].items())
    settings = ', '.join(f'{key} {value}' for key, value in report['settings'].items())
    return f'Machine: {machine}.\n\nMeasured: {settings}.\n\n{table(report["records"])}\n'


def row(record: Record) -> list[str]:
    """One record as cells under `HEADER`."""
    span = '-'
    if 'ratio_min' in record:
        span = f'{record["ratio_min"]:.3f}-{record["ratio_max"]:.3f}'
    memory = record['peak_bytes'] / 2**20 if 'peak_bytes' in record else None
    return [
        record['method'],
        f'{record["states"]:.4g}',
        _number(record.get('ratio')),
        span,
        _number(record['bound']),
        _number(record.get('quotient')),
        _number(memory, 1),
        _number(record.get('peak_ratio'), 2),
        str(sum(record['waits'].values())) if 'waits' in record else '-',
    ]


def _number(value: float | None, digits: int = 3) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def check_figure(path: str | PathLike) -> None:
    """Find out early whether `draw_benchmark` could write there.

    Raises:
        MMDiscardError: if matplotlib is absent, or knows no such kind of file.
    """
    try:
        plt = pyplot()
    except ImportError as error:
        raise MMDiscardError(str(error)) from error
    kinds = plt.FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix.removeprefix('.') not in kinds:
        raise MMDiscardError(f'{path}: figures end in one of {", ".join(sorted(kinds))}')


def draw_benchmark(report: Mapping[str, Any], path: str | PathLike) -> None:
    """Time and peak memory against the number of states, a line per method.

    Args:
        report: with ``records``; what was not measured has no panel.
        path: picture file.
    """
    panels = [('ratio', 'time, plain forwards'), ('peak_ratio', 'peak memory, times the plain')]
    panels = [panel for panel in panels if panel[0] in report['records'][0]]
    plt = pyplot()
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for axis, (field, label) in zip(axes[0], panels, strict=True):
        for method, points in _curves(report['records'], field).items():
            axis.plot(*zip(*sorted(points), strict=True), marker='o', label=method)
        axis.set_xlabel('states or views, B')
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    if panels and panels[0][0] == 'ratio':
        bounds = _curves(report['records'], 'bound').get('search', [(1, 1)])
        axes[0][0].plot(*zip(*sorted(bounds), strict=True), 'k:', label='bound of search')
    axes[0][0].legend(fontsize='small')
    save_figure(figure, path)


def _curves(records: Sequence[Record], field: str) -> dict[str, list[tuple[float, float]]]:
    curves = defaultdict(list)
    for record in records:
        if record.get(field) is not None:
            curves[record['method']].append((record['states'], record[field]))
    return curves
