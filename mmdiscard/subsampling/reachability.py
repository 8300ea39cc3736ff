"""Which layers cut the image off from which output levels.

Both questions are asked with NaN, which survives every arithmetic operation, zero-initialised
weights included. A level lies *behind* some layers if an image of NaN does not reach it while their
outputs are constant. It is *touched* by them if NaN in their outputs reaches it.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .backbone import Size, as_levels, blank_image, deepest

NAN = float('nan')
Levels = tuple[int, ...]


def smallest_cut(
    backbone: nn.Module, names: Sequence[str], input_size: Size
) -> tuple[tuple[str, ...], Levels]:
    """The fewest of ``names`` that cut off as much as all of them, and the levels behind them.

    Both are empty if the deepest level is not behind all of them together. Where several would do,
    the last of ``names`` are taken.
    """
    behind_all = levels_behind(backbone, names, input_size)
    if not behind_all:
        return (), ()

    def enough(held: Sequence[str]) -> bool:
        return levels_behind(backbone, held, input_size) == behind_all

    # What is not on the trunk tends to come before what is, so start from the end.
    start = bisect_left(range(len(names)), True, 1, key=lambda i: not enough(names[i:])) - 1
    members = list(names[start:])
    for name in members[1:]:
        others = [other for other in members if other != name]
        if enough(others):
            members = others
    return tuple(members), behind_all


def levels_behind(backbone: nn.Module, held: Sequence[str], input_size: Size) -> Levels:
    """Output levels that the image does not reach while the outputs of ``held`` are constant.

    Empty unless the deepest level is among them.
    """
    levels = _with_outputs(backbone, held, 0.0, blank_image(backbone, input_size, NAN))
    behind = tuple(i for i, level in enumerate(levels) if not level.isnan().any())
    return behind if deepest(levels) in behind else ()


def levels_touched(backbone: nn.Module, held: Sequence[str], input_size: Size) -> Levels:
    """Output levels that depend on the outputs of ``held``."""
    levels = _with_outputs(backbone, held, NAN, blank_image(backbone, input_size))
    return tuple(i for i, level in enumerate(levels) if level.isnan().any())


def _with_outputs(
    backbone: nn.Module, held: Sequence[str], value: float, image: Tensor
) -> tuple[Tensor, ...]:
    """Output levels for ``image`` while the layers ``held`` put out ``value``."""

    def hold(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return torch.full_like(output, value)

    hooks: list[Callable] = [
        backbone.get_submodule(name).register_forward_hook(hold) for name in held
    ]
    try:
        return as_levels(backbone(image))
    finally:
        for hook in hooks:
            hook.remove()
