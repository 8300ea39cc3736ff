"""Which modules subsample, by how much, and at which stride: read off the sizes of one forward."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import MMDiscardError
from .backbone import Size, as_levels, blank_image
from .layers import subsampling_factor

BLUR = 0.15  # how far the ratio of sizes may be off a stride, relative to it


@dataclass(frozen=True)
class Layer:
    """A module that subsamples, as one forward met it.

    Attributes:
        name: inside the backbone.
        factor: subsampling factor ``(Ry, Rx)``.
        stride: input stride ``(Sy, Sx)``, in image pixels.
        shape: of its input.
        order: when it was called, counted from 0.
        calls: how often it was called.
    """

    name: str
    factor: Size
    stride: Size
    shape: tuple[int, ...]
    order: int
    calls: int = 1

    @property
    def kind(self) -> tuple[Size, Size]:
        """What layers that subsample together share."""
        return self.stride, self.factor

    def __str__(self) -> str:
        stride, factor = (f'{pair[0]}x{pair[1]}' for pair in self.kind)
        return f'{self.name} (factor {factor}, input stride {stride})'


@dataclass(frozen=True)
class Trace:
    """What one forward shows.

    Attributes:
        layers: strided layers, one for each call, in order.
        modules: other modules with smaller maps behind than in front of them, in order.
        strides: stride of every output level; (0, 0) for an output that is not a map.
        unseen: strides that no layer explains.
    """

    layers: tuple[Layer, ...]
    modules: tuple[Layer, ...]
    strides: tuple[Size, ...]
    unseen: tuple[Size, ...]

    @property
    def sequence(self) -> list[tuple[str, Size]]:
        """Which strided layers ran, in order, whatever the size of the image."""
        return [(layer.name, layer.factor) for layer in self.layers]


def trace_strides(backbone: nn.Module, input_size: Size) -> Trace:
    """Run ``backbone`` once on a blank image.

    Raises:
        MMDiscardError: if it cannot be run at ``input_size``.
    """
    recorder = _Recorder(backbone)
    try:
        output = backbone(blank_image(backbone, input_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise MMDiscardError(
            f'{type(backbone).__name__} cannot be traced at input size {input_size}: {error}; set '
            '`input_size` to a size that it accepts'
        ) from error
    finally:
        recorder.remove()
    ruler = StrideRuler(input_size)
    layers = recorder.layers(recorder.strided, ruler)
    strides = tuple(ruler.level_stride(tuple(level.shape)) for level in as_levels(output))
    unseen = tuple(sorted(ruler.unseen))
    return Trace(layers, recorder.layers(recorder.shrinking, ruler), strides, unseen)


@dataclass
class _Call:
    name: str
    order: int
    shape: tuple[int, ...]
    factor: Size = (1, 1)


class _Recorder:
    """Notes every call of a strided layer, and every module that shrinks the only map it is given.

    Modules with a strided layer inside count too: what subsamples may be more than that layer.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.strided: list[_Call] = []
        self.shrinking: list[_Call] = []
        self._calls = 0
        self._handles: list = []
        for name, module in backbone.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks: what it subsamples shows as an unexplained stride
            factor = subsampling_factor(module)
            if factor != (1, 1):
                self._handles.append(module.register_forward_pre_hook(self._strided(name, factor)))
            elif name:
                self._handles += [
                    module.register_forward_pre_hook(self._entered, with_kwargs=True),
                    module.register_forward_hook(self._left(name), with_kwargs=True),
                ]
        self._open: list[int] = []

    def layers(self, calls: list[_Call], ruler: 'StrideRuler') -> tuple[Layer, ...]:
        times = Counter(call.name for call in calls)
        return tuple(
            Layer(
                name=call.name,
                factor=call.factor,
                stride=ruler.input_stride(call.shape[-2:], call.factor),
                shape=call.shape,
                order=call.order,
                calls=times[call.name],
            )
            for call in sorted(calls, key=lambda call: call.order)
        )

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _next(self) -> int:
        self._calls += 1
        return self._calls - 1

    def _strided(self, name: str, factor: Size) -> Callable:
        def note(module: nn.Module, args: tuple) -> None:
            self.strided.append(_Call(name, self._next(), tuple(args[0].shape), factor))

        return note

    def _entered(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._open.append(self._next())

    def _left(self, name: str) -> Callable:
        def note(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            order = self._open.pop()
            factor = _shrinkage(args, kwargs, output)
            if factor != (1, 1):
                self.shrinking.append(_Call(name, order, tuple(args[0].shape), factor))

        return note


def _shrinkage(args: tuple, kwargs: dict, output: object) -> Size:
    """The whole factor from one map ``(N, C, H, W)`` to another; (1, 1) if it is none."""
    maps = [*args, output]
    if kwargs or len(maps) != 2 or not all(isinstance(m, Tensor) and m.ndim == 4 for m in maps):
        return (1, 1)
    before, after = maps
    if before.shape[0] != after.shape[0] or min(after.shape[2:]) < 2:
        return (1, 1)
    factors = [round(b / a) for b, a in zip(before.shape[2:], after.shape[2:], strict=True)]
    return (factors[0], factors[1]) if min(factors) >= 1 else (1, 1)


class StrideRuler:
    """Reads strides off sizes, which padding and odd sizes blur.

    A stride is a product of factors met so far; of these, the nearest to the ratio of sizes is it.
    Where none is near, something that is no layer subsampled, and the ratio itself is the stride.

    Args:
        input_size: ``(H, W)`` of the image.
    """

    def __init__(self, input_size: Size) -> None:
        self.input_size = input_size
        self.known: tuple[set[int], set[int]] = ({1}, {1})
        self.unseen: set[Size] = set()

    def stride(self, size: Size) -> Size:
        """Stride of a map of that size."""
        axes = zip(self.input_size, size, self.known, strict=True)
        stride = tuple(self._nearest(full / cells, known) for full, cells, known in axes)
        axes = zip(self.input_size, size, stride, strict=True)
        more = [self._unexplained(full, cells, s) for full, cells, s in axes]
        if max(more) > 1:
            stride = (stride[0] * more[0], stride[1] * more[1])
            self.unseen.add(stride)
            for known, s in zip(self.known, stride, strict=True):
                known.add(s)
        return stride

    @staticmethod
    def _nearest(ratio: float, known: set[int]) -> int:
        return min(known, key=lambda stride: abs(math.log(ratio / stride)))

    @staticmethod
    def _unexplained(full: int, cells: int, stride: int) -> int:
        """A whole factor beyond ``stride``, else 1: layers without padding shrink maps too."""
        factor = full / (cells * stride)
        whole = round(factor)
        return whole if cells > 1 and whole > 1 and abs(factor / whole - 1) < BLUR else 1

    def input_stride(self, size: Size, factor: Size) -> Size:
        """Stride of a layer's input; what it puts out is known from now on."""
        stride = self.stride(size)
        for known, s, r in zip(self.known, stride, factor, strict=True):
            known.add(s * r)
        return stride

    def level_stride(self, shape: tuple[int, ...]) -> Size:
        """Stride of an output of the backbone; (0, 0) if it is no map ``(N, C, h, w)``."""
        if len(shape) != 4:
            return (0, 0)
        down, across = (
            full / cells for full, cells in zip(self.input_size, shape[2:], strict=True)
        )
        # A map keeps the shape of the image; tokens, heads and channels-last maps do not.
        return self.stride(shape[2:]) if abs(math.log(down / across)) < 1 else (0, 0)
