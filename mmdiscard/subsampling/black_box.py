"""Whether a module of unknown content can be displaced in the way of a strided layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import Size
from .strides import Layer

EXACT = 0.02  # error over effect; what is left comes from statistics over the whole map
ENLARGED = (1, 4)  # borders may reach the middle of a map as small as it was met


def displaces(module: nn.Module, layer: Layer) -> bool:
    """Whether extending its input displaces what it puts out, away from the borders.

    It may hold anything: pooling by a function, a blur that pads by reflection, branches of which
    one is strided. For an input that is extended by ``R - d`` before and ``d`` after it has to put
    out one more row and column; without the first of each, that has to be its output for the
    translated input.

    Args:
        module: maps ``(N, C, H, W)`` to ``(N, C', h, w)``; in evaluation mode.
        layer: its factor, and the shape of the input that it received in the backbone.
    """
    sizes = [tuple(side * times for side in layer.shape[2:]) for times in ENLARGED]
    return any(_displaces(module, layer, size) for size in sizes)


def _displaces(module: nn.Module, layer: Layer, size: Size) -> bool:
    height, width = size
    (top, bottom), (left, right) = (_margins(factor) for factor in layer.factor)
    weight = next(module.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    canvas = torch.randn((1, layer.shape[1], height + bottom, width + right), generator=generator)
    canvas = canvas.to(weight)
    image, translated = canvas[..., :height, :width], canvas[..., bottom:, right:]
    try:
        default, expected = module(image.contiguous()), module(translated.contiguous())
        found = module(F.pad(image, (left, right, top, bottom)))
    except Exception:  # whatever a module of others raises at another size
        return False
    found = found[..., top:, left:]
    if found.shape != expected.shape:
        return False
    error, effect = _difference(found, expected), _difference(expected, default)
    return error <= EXACT * effect and effect > 0


def _margins(factor: int) -> tuple[int, int]:
    """Cells before and after for the largest selection index."""
    return (1, factor - 1) if factor > 1 else (0, 0)


def _difference(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference in the middle third."""
    h, w = a.shape[2:]
    return float((a - b)[..., h // 3 : h - h // 3, w // 3 : w - w // 3].abs().mean())
