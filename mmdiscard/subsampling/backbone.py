"""Running a backbone of which nothing is known but that it maps images to feature maps."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from ..errors import MMDiscardError

Size = tuple[int, int]
MOST_GUESSES = 24  # of the number of channels


@contextmanager
def inference_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule has its own mode again.

    Parameters require no gradients meanwhile, as PyTorch's counter of operations fails on one that
    is handed from module to module. Modes are restored one by one because `train` of some backbones
    has side effects. `eval` of a module in training mode is called first, as some prepare
    themselves for inference in it.
    """
    flags = [(m, m.training) for m in module.modules()]
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if module.training:
        module.eval()
    for submodule, _ in flags:
        if submodule.training:  # assigning to a module is slow
            submodule.training = False
    for parameter in learning:
        parameter.requires_grad = False
    try:
        with torch.no_grad():
            yield
    finally:
        for submodule, training in flags:
            if submodule.training != training:
                submodule.training = training
        for parameter in learning:
            parameter.requires_grad = True


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Evaluation mode without gradients; random state, modes and buffers come back afterwards.

    Yields a function that brings buffers and random state of Python and NumPy back at once.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    states = random.getstate(), np.random.get_state()
    devices = {p.device for p in model.parameters() if p.is_cuda}

    @torch.no_grad()
    def restore() -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for buffer, before in buffers:
            buffer.copy_(before)

    try:
        with torch.random.fork_rng(devices), inference_mode(model):
            yield restore
    finally:
        restore()


def is_level(leaf: Any) -> bool:
    """Whether something that a backbone returns holds features: losses and counts do not."""
    return isinstance(leaf, Tensor) and leaf.ndim > 1


def as_levels(output: Any) -> tuple[Tensor, ...]:
    """Whatever a backbone returns (nested, with None in it) as a tuple of its output levels.

    Raises:
        MMDiscardError: if there is no tensor of features in it.
    """
    levels = tuple(leaf for leaf in tree_flatten(output)[0] if is_level(leaf))
    if not levels:
        raise MMDiscardError(
            f'the backbone returns {type(output).__name__} without a tensor of features in it; it '
            'has to return feature maps, bare or in tuples, lists and dicts'
        )
    return levels


def without_tensors(output: Any) -> Any:
    """The structure of what a backbone returns, to be filled by `with_levels`."""
    return tree_map(lambda leaf: _Level if is_level(leaf) else leaf, output)


def with_levels(form: Any, levels: Sequence[Tensor]) -> Any:
    """Output levels in the structure in which the backbone returned them."""
    rest = iter(levels)
    return tree_map(lambda leaf: next(rest) if leaf is _Level else leaf, form)


class _Level:
    """Stands where a tensor was."""


def blank_image(backbone: nn.Module, input_size: Size, in_channels: int | None = None) -> Tensor:
    """An image of zeros ``(1, C, H, W)`` on the device and in the precision of ``backbone``.

    Args:
        backbone: what the image is for.
        input_size: ``(H, W)``.
        in_channels: ``C``; None for the first of `plausible_channels`.
    """
    floating = (p for p in backbone.parameters() if p.is_floating_point())
    weight = next(floating, torch.zeros(()))
    channels = in_channels or plausible_channels(backbone)[0]
    return weight.new_zeros((1, channels, *input_size))


def noise_image(
    backbone: nn.Module, input_size: Size, in_channels: int | None = None, seed: int = 0
) -> Tensor:
    """`blank_image` of normally distributed noise; the state of random generators stays.

    Args:
        backbone: gives device and dtype.
        input_size: ``(H, W)``.
        in_channels: ``C``; None for the first of `plausible_channels`.
        seed: of the noise.
    """
    blank = blank_image(backbone, input_size, in_channels)
    return torch.randn(blank.shape, generator=torch.Generator().manual_seed(seed)).to(blank)


def plausible_channels(backbone: nn.Module, expected: int | None = None) -> list[int]:
    """Numbers of channels that the images of a backbone may have, the most plausible first.

    The first convolution may be behind a rearrangement of pixels, in one of several branches, or in
    front of a trunk for RGB images, so only running tells.

    Args:
        backbone: any.
        expected: the number that the model normalises, if it is known.
    """
    taken = [layer.in_channels for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    first = [3] if 3 in taken or not taken else []
    guesses = [*first, *taken[:1], 3, 1, 4, 6, 2, *range(5, 17), *sorted(taken)]
    return list(dict.fromkeys([expected, *guesses] if expected else guesses))[:MOST_GUESSES]


def deepest(levels: Sequence[Tensor]) -> int:
    """Position of the level with the fewest cells; the last of several."""
    cells = [math.prod(level.shape[2:]) for level in levels]
    return max(i for i, count in enumerate(cells) if count == min(cells))
