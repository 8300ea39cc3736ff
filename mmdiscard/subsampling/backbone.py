"""Running a backbone of which nothing is known but that it maps images to feature maps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from ..errors import MMDiscardError

Size = tuple[int, int]


@contextmanager
def inference_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule's own flag is back.

    Parameters ask for no gradients either, as PyTorch's counter of operations trips over one that
    is handed from module to module. The flags come back one by one because some backbones override
    `train` with side effects. One that is in training mode is told to evaluate first, as some
    prepare themselves then.
    """
    flags = [(m, m.training) for m in module.modules()]
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if module.training:
        module.eval()
    for submodule, _ in flags:
        submodule.training = False
    for parameter in learning:
        parameter.requires_grad = False
    try:
        with torch.no_grad():
            yield
    finally:
        for submodule, training in flags:
            submodule.training = training
        for parameter in learning:
            parameter.requires_grad = True


def as_levels(output: Any) -> tuple[Tensor, ...]:
    """Whatever a backbone returns (nested, with None in it) as a tuple of its output levels.

    Raises:
        MMDiscardError: if there is no tensor in it.
    """
    levels = tuple(leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor))
    if not levels:
        raise MMDiscardError(
            f'the backbone returns {type(output).__name__} without a tensor in it; what is '
            'searched has to put out feature maps'
        )
    return levels


def without_tensors(output: Any) -> Any:
    """The form of what a backbone returns, to be filled by `with_levels`."""
    return tree_map(lambda leaf: _Level if isinstance(leaf, Tensor) else leaf, output)


def with_levels(form: Any, levels: Sequence[Tensor]) -> Any:
    """Output levels in the form in which the backbone returned them."""
    rest = iter(levels)
    return tree_map(lambda leaf: next(rest) if leaf is _Level else leaf, form)


class _Level:
    """Stands where a tensor was."""


def blank_image(backbone: nn.Module, input_size: Size, value: float = 0.0) -> Tensor:
    """One constant image ``(1, 3, H, W)`` on the device and in the precision of ``backbone``.

    It has as many channels as the first convolution takes, unless one takes 3.
    """
    weight = next(backbone.parameters(), torch.zeros(()))
    taken = [layer.in_channels for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    channels = 3 if 3 in taken or not taken else taken[0]
    return weight.new_full((1, channels, *input_size), value)


def deepest(levels: Sequence[Tensor]) -> int:
    """Which level has the fewest cells; the last of several."""
    cells = [level[0, 0].numel() for level in levels]
    return max(i for i, count in enumerate(cells) if count == min(cells))
