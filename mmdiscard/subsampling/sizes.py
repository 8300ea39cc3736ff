"""The sizes of the maps of a backbone, which are all that a second forward is run for."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .backbone import Size, as_levels, noise_image
from .dataflow import maps_in
from .layers import subsampling_factor

PADDING = 32  # backbones pad images to multiples of up to so many pixels
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """The sizes of the maps of one forward.

    Attributes:
        input_size: ``(H, W)`` of the image.
        received: name, factor and shape of the input of strided layers, one for each call, in
            order.
        shapes: of every output level.
    """

    input_size: Size
    received: tuple[tuple[str, Size, Shape], ...]
    shapes: tuple[Shape, ...]

    @property
    def sequence(self) -> list[tuple[str, Size]]:
        """The strided layers that ran, in order, independent of the image size."""
        return [(name, factor) for name, factor, _ in self.received]

    def maps(self, names: Collection[str], channels_last: Sequence[bool]) -> list[Size]:
        """Size of what some layers receive, and of all output levels."""
        return [
            *(shape[-2:] for name, _, shape in self.received if name in names),
            *map(spatial_size, self.shapes, channels_last),
        ]


class TraceError(Exception):
    """A backbone that raised while it was traced.

    Attributes:
        error: what it raised.
        calls: how many modules it had called by then.
    """

    def __init__(self, error: Exception, calls: int) -> None:
        super().__init__(str(error))
        self.error, self.calls = error, calls


def trace_sizes(backbone: nn.Module, input_size: Size, in_channels: int) -> Sizes:
    """Run ``backbone`` once on an image of noise, and look at sizes alone.

    Args:
        backbone: any module of images to feature maps.
        input_size: ``(H, W)`` of the image.
        in_channels: ``C`` of the image.

    Raises:
        TraceError: as `trace_strides`.
    """
    received, handles = [], []
    for name, module in hookable(backbone):
        factor = subsampling_factor(module)

        def see(module: nn.Module, args: tuple, kwargs: dict, name=name, factor=factor) -> None:
            maps = maps_in((args, kwargs))
            if maps:
                received.append((name, factor, tuple(maps[0].shape)))

        if factor != (1, 1):
            handles.append(module.register_forward_pre_hook(see, with_kwargs=True))
    try:
        levels = as_levels(backbone(noise_image(backbone, input_size, in_channels)))
    except Exception as error:  # whatever a backbone of others raises
        raise TraceError(error, len(received)) from error
    finally:
        for handle in handles:
            handle.remove()
    return Sizes(input_size, tuple(received), tuple(tuple(level.shape) for level in levels))


def hookable(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules; scripted ones take no hooks: their strides count as unexplained."""
    for name, module in backbone.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            yield name, module


def grows(sizes: Sequence[Size], cells: Sequence[Size], stride: Size) -> bool:
    """Whether a map grew as the image did, but for padding and rounding on the way.

    Some round a map to an even number of cells, so nearly two cells are allowed for it.

    Args:
        sizes: ``(H, W)`` of two images.
        cells: ``(h, w)`` of the map for each.
        stride: ``(Sy, Sx)`` of the map.
    """
    growth = (one - other for one, other in zip(*sizes, strict=True))
    found = (one - other for one, other in zip(*cells, strict=True))
    return all(
        abs(pixels - step * count) < max(2 * step, PADDING)
        for pixels, count, step in zip(growth, found, stride, strict=True)
    )


def spatial_size(shape: Shape, channels_last: bool = False) -> Size:
    """Height and width of a map ``(N, C, h, w)``, or ``(N, h, w, C)`` if ``channels_last``."""
    return shape[1:3] if channels_last else shape[2:4]
