"""The figure of adaptive budgets: which share of a gain is left at which average cost."""

from collections.abc import Mapping, Sequence
from os import PathLike

from benchmarks.common.figures import pyplot, save_figure


def draw_adaptive_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    path: str | PathLike,
    goal: tuple[float, float] = (2.0, 0.9),
) -> None:
    """Share of the full gain against cost, one panel per model.

    Args:
        panels: per model and way to save, points (cost in plain forwards, share of the gain).
        path: picture file.
        goal: a cost and a share to mark.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.2), squeeze=False)
    for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for (label, points), marker in zip(curves.items(), 'osv^', strict=False):
            costs, shares = zip(*sorted(points), strict=True)
            axis.plot(costs, [100 * share for share in shares], marker=marker, label=label)
        axis.axvline(goal[0], color='grey', linestyle=':')
        axis.axhline(100 * goal[1], color='grey', linestyle=':')
        axis.set_title(title)
        axis.set_xlabel('mean cost (plain forwards)')
        axis.grid(alpha=0.3)
        axis.legend(loc='lower right')
    axes[0][0].set_ylabel('share of the full gain (%)')
    save_figure(figure, path)
