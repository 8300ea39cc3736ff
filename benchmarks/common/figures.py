"""Figures: what changed in the pictures, and what a gain costs."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

COLUMNS = ('input', 'truth', 'plain', 'mmdiscard')


def draw_panels(
    rows: Sequence[Sequence[np.ndarray]], palette: Sequence[Sequence[int]], path: str | PathLike
) -> None:
    """One row per image: input, truth, plain prediction, prediction with mmdiscard.

    Args:
        rows: per image an RGB picture ``(H, W, 3)`` uint8 and three label maps ``(H, W)``; labels
            beyond the palette (such as 255, ignored) are white.
        palette: RGB colour of every class, 0..255.
        path: picture file.
    """
    colours = label_colours(palette)
    plt = pyplot()
    figure, axes = plt.subplots(
        len(rows), len(COLUMNS), figsize=(2 * len(COLUMNS), 2 * len(rows)), squeeze=False
    )
    for line, (image, *labels) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, [image, *(colours[label] for label in labels)], strict=True):
            axis.imshow(picture, interpolation='nearest')
            axis.set_axis_off()
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title)
    save_figure(figure, path)


def label_colours(palette: Sequence[Sequence[int]]) -> np.ndarray:
    """RGB of each label, ``(256, 3)`` uint8; white beyond the palette, such as 255, ignored."""
    colours = np.full((256, 3), 255, dtype=np.uint8)
    colours[: len(palette)] = palette
    return colours


def draw_cost_curves(
    curves: Mapping[str, Sequence[tuple[int, float, float]]], path: str | PathLike
) -> None:
    """Metric against cost, one panel per model.

    Args:
        curves: per model, points (budget, cost in plain forwards, metric).
        path: picture file.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), squeeze=False)
    for axis, (name, points) in zip(axes[0], curves.items(), strict=True):
        budgets, costs, metrics = zip(*sorted(points), strict=True)
        axis.plot(costs, metrics, marker='o')
        for budget, cost, metric in zip(budgets, costs, metrics, strict=True):
            axis.annotate(f'B={budget}', (cost, metric), (3, -11), textcoords='offset points')
        axis.set_title(name)
        axis.set_xlabel('cost (time of one plain forward)')
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel('metric')
    save_figure(figure, path)


def pyplot():
    """Matplotlib's pyplot, drawing to files.

    Raises:
        ImportError: if matplotlib is absent.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install matplotlib') from error
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    return plt


def save_figure(figure, path: str | PathLike) -> None:
    """Write a figure and free it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot().close(figure)
