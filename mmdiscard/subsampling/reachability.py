"""Find layers through which all paths from the image to an output level lead.

A level lies *behind* some layers if it does not depend on the image while their outputs are
constant. It is *touched* by them if it depends on their outputs.
"""

from bisect import bisect_left
from collections.abc import Sequence

from .dataflow import IMAGE, Dataflow

Levels = tuple[int, ...]


def smallest_cut(
    flow: Dataflow, names: Sequence[str], deepest: int
) -> tuple[tuple[str, ...], Levels]:
    """The fewest of ``names`` that cut off as much as all of them, and the levels behind them.

    Both are empty if the deepest level is not behind all of them together. Where several would do,
    the last of ``names`` are taken.

    Args:
        flow: of the backbone.
        names: of strided layers or modules, in execution order.
        deepest: which output level has to lie behind them.
    """
    behind_all = levels_behind(flow, names, deepest)
    if not behind_all:
        return (), ()

    def enough(held: Sequence[str]) -> bool:
        return levels_behind(flow, held, deepest) == behind_all

    # What is not on the trunk tends to come before what is, so start from the end.
    start = bisect_left(range(len(names)), True, 1, key=lambda i: not enough(names[i:])) - 1
    members = list(names[start:])
    for name in members[1:]:
        others = [other for other in members if other != name]
        if enough(others):
            members = others
    return tuple(members), behind_all


def levels_behind(flow: Dataflow, held: Sequence[str], deepest: int) -> Levels:
    """Output levels that no longer depend on the image while the outputs of ``held`` are constant.

    Args:
        flow: of the backbone.
        held: names of modules.
        deepest: position of the deepest level.

    Returns:
        Their positions; empty unless the deepest level is among them.
    """
    past = flow.levels_reached([IMAGE], held)
    behind = tuple(level for level in flow.levels_reached([IMAGE]) if level not in past)
    return behind if deepest in behind else ()


def levels_touched(flow: Dataflow, held: Sequence[str]) -> Levels:
    """Output levels that depend on the outputs of ``held``."""
    return flow.levels_reached(node for name in held for node in flow.marks[name])
