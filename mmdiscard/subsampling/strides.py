"""Find the modules that subsample, with factors and strides, by the sizes in one forward."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .backbone import Size, as_levels, deepest, noise_image
from .dataflow import Dataflow, DataflowRecorder, maps_in, tensors_in
from .layers import subsampling_factor
from .sizes import Shape, Sizes, TraceError, hookable, spatial_size

BLUR = 0.15  # how far the ratio of sizes may be off a stride, relative to it
# Of PyTorch's own modules, those that keep sizes and do nothing outside of its operators.
UNTRACED = {f'torch.nn.modules.{kind}' for kind in ('activation', 'batchnorm', 'dropout')}
CLEARLY = 0.3  # by how much one reading of a shape has to fit better, as a logarithm


@dataclass(frozen=True)
class Layer:
    """A module that subsamples, as one forward met it.

    Attributes:
        name: inside the backbone.
        factor: subsampling factor ``(Ry, Rx)``.
        stride: input stride ``(Sy, Sx)``, in image pixels.
        shape: of its input, the first map if it receives several.
        order: when it was called, counted from 0.
        macs: multiply-accumulates before that call.
        calls: how often it was called.
        unlike: whether it receives or returns maps of several sizes.
    """

    name: str
    factor: Size
    stride: Size
    shape: Shape
    order: int
    macs: int = 0
    calls: int = 1
    unlike: bool = False

    @property
    def kind(self) -> tuple[Size, Size]:
        """Input stride and factor, which layers that subsample together share."""
        return self.stride, self.factor

    def __str__(self) -> str:
        stride, factor = (f'{pair[0]}x{pair[1]}' for pair in self.kind)
        return f'{self.name} (factor {factor}, input stride {stride})'


@dataclass(frozen=True)
class Trace:
    """Modules, sizes and dataflow recorded in one forward.

    Attributes:
        input_size: ``(H, W)`` of the image.
        in_channels: of the image.
        layers: strided layers, one for each call, in order.
        modules: other modules with smaller maps behind than in front of them, in order.
        macs: multiply-accumulates of the backbone.
        shapes: of every output level.
        strides: stride of every output level; (0, 0) for an output that is not a map.
        channels_last: by output level, whether it is a map ``(N, h, w, C)``.
        unseen: strides that no layer explains.
        deepest: the output level with the fewest cells.
        flow: what depends on what.
        sample: the image and the output levels.
        ruler: what the strides were read with.
    """

    input_size: Size
    in_channels: int
    layers: tuple[Layer, ...]
    modules: tuple[Layer, ...]
    macs: int
    shapes: tuple[Shape, ...]
    strides: tuple[Size, ...]
    channels_last: tuple[bool, ...]
    unseen: tuple[Size, ...]
    deepest: int
    flow: Dataflow
    sample: tuple[Tensor, tuple[Tensor, ...]]
    ruler: 'StrideRuler'

    @property
    def sizes(self) -> Sizes:
        """The result of `trace_sizes`."""
        received = tuple((layer.name, layer.factor, layer.shape) for layer in self.layers)
        return Sizes(self.input_size, received, self.shapes)

    def strides_of_maps(self, names: Collection[str]) -> list[Size]:
        """The strides of `Sizes.maps`."""
        return [*(one.stride for one in self.layers if one.name in names), *self.strides]

    def laid_out_as(self, other: Sizes) -> 'Trace':
        """Strides of the levels read anew where a trace at another size tells their axes apart.

        Of a map ``(N, h, w, C)``, the last axis keeps its size and the one before it does not.
        """
        channels_last = tuple(
            len(one) == len(two) == 4 and one[3] == two[3] and one[2] != two[2]
            for one, two in zip(self.shapes, other.shapes, strict=True)
        )
        strides = tuple(map(self.ruler.level_stride, self.shapes, channels_last))
        return replace(self, channels_last=channels_last, strides=strides)


def trace_strides(backbone: nn.Module, input_size: Size, in_channels: int) -> Trace:
    """Run ``backbone`` once on an image of noise.

    Args:
        backbone: any module of images to feature maps.
        input_size: ``(H, W)`` of the image.
        in_channels: ``C`` of the image.

    Raises:
        TraceError: if it does not run on images of that size and number of channels.
    """
    image = noise_image(backbone, input_size, in_channels)
    recorder = _Recorder(backbone, image)
    try:
        # Inference mode would hide of which operators others, such as `linear`, consist.
        with torch.inference_mode(False), torch.no_grad(), recorder.flow:
            output = backbone(image)
    except Exception as error:  # whatever a backbone of others raises
        raise TraceError(error, recorder.calls) from error
    finally:
        recorder.remove()
    ruler = StrideRuler(input_size)
    layers = recorder.layers(recorder.strided, ruler)
    levels = as_levels(output)
    shapes = tuple(tuple(level.shape) for level in levels)
    channels_last = tuple(_is_channels_last(input_size, shape) for shape in shapes)
    strides = tuple(map(ruler.level_stride, shapes, channels_last))
    unseen = tuple(sorted(ruler.unseen))
    return Trace(
        input_size=input_size,
        in_channels=in_channels,
        layers=layers,
        modules=recorder.layers(recorder.shrinking, deepcopy(ruler)),
        macs=recorder.flow.flops // 2,
        shapes=shapes,
        strides=strides,
        channels_last=channels_last,
        unseen=unseen,
        deepest=deepest(levels),
        flow=Dataflow(
            tuple(recorder.flow.sources),
            {name: tuple(nodes) for name, nodes in recorder.marks.items()},
            tuple(recorder.flow.nodes(levels)),
        ),
        sample=(image, levels),
        ruler=ruler,
    )


@dataclass
class _Call:
    """One call of a module.

    Attributes:
        name: of the module.
        order: when it began.
        inputs: the nodes of its inputs, by the identity of the tensor.
        since: the first node that was computed in it.
        macs: multiply-accumulates before it.
        shape: of the map that it received.
        factor: by which it subsamples.
        unlike: whether it received or returned maps of several sizes.
    """

    name: str
    order: int
    inputs: dict[int, int | None]
    since: int
    macs: int
    shape: Shape = ()
    factor: Size = (1, 1)
    unlike: bool = False


class _Recorder:
    """Records the calls of strided layers, and of modules that shrink the only map they are given.

    Modules with a strided layer inside count too: what subsamples may be more than that layer.
    What they put out is copied, which marks it in the dataflow.
    """

    def __init__(self, backbone: nn.Module, image: Tensor) -> None:
        self.flow = DataflowRecorder(image)
        self.strided: list[_Call] = []
        self.shrinking: list[_Call] = []
        self.marks: dict[str, list[int]] = {}
        self.calls = 0
        self._open: list[_Call] = []
        self._unused: list[tuple[nn.Module, int]] = []  # marks of layers that just returned
        self._names = {module: name for name, module in hookable(backbone)}
        self._paused = False
        self._handles: list = []
        for module in self._names:
            if type(module).__module__ in UNTRACED:  # hooks take as long as they do
                continue
            self._handles += [
                module.register_forward_pre_hook(self._entered, with_kwargs=True),
                module.register_forward_hook(self._left, with_kwargs=True),
            ]

    def layers(self, calls: list[_Call], ruler: 'StrideRuler') -> tuple[Layer, ...]:
        """The called modules, in order, with strides by ``ruler``."""
        times = Counter(call.name for call in calls)
        return tuple(
            Layer(
                name=call.name,
                factor=call.factor,
                stride=ruler.input_stride(call.shape[-2:], call.factor),
                shape=call.shape,
                order=call.order,
                macs=call.macs,
                calls=times[call.name],
                unlike=call.unlike,
            )
            for call in sorted(calls, key=lambda call: call.order)
        )

    def remove(self) -> None:
        """Take the hooks out again."""
        for handle in self._handles:
            handle.remove()

    def _entered(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if not self._paused:
            tensors = tensors_in((args, kwargs))
            inputs = dict(zip(map(id, tensors), self.flow.nodes(tensors), strict=True))
            since = len(self.flow.sources)
            macs = self.flow.flops // 2
            self._open.append(_Call(self._names[module], self.calls, inputs, since, macs))
            self.calls += 1

    def _left(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        if self._paused:
            return None
        call = self._open.pop()
        self._connect(module, call, args, kwargs, output)
        maps = maps_in((args, kwargs))
        call.factor = subsampling_factor(module)
        is_layer = call.factor != (1, 1) and bool(maps)
        if is_layer:
            call.unlike = len({m.shape[-2:] for m in maps}) > 1
            call.unlike |= len({m.shape[-2:] for m in maps_in(output)}) > 1
        else:
            call.factor = _shrinkage(args, kwargs, output)
            if call.factor == (1, 1) or not call.name:
                return None
        call.shape = tuple(maps[0].shape)
        marked = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)
        nodes = [node for node in self.flow.nodes(marked) if node is not None]
        self.marks.setdefault(call.name, []).extend(nodes)
        if is_layer:
            self.strided.append(call)
            self._unused += [(module, node) for node in nodes]
        else:
            self.shrinking.append(call)
        return marked

    def _connect(
        self, module: nn.Module, call: _Call, args: tuple, kwargs: dict, output: Any
    ) -> None:
        """Add dependencies of what a module puts out that the dispatcher did not see.

        They are those on its inputs, and on strided layers that were called in it.
        """
        for node in set(call.inputs.values()) - {None} if call.name else ():
            if self.flow.depends(output, node, call.since):
                continue
            which = [tensor for tensor, other in call.inputs.items() if other == node]
            others = _changed((args, kwargs), lambda leaf, which=which: id(leaf) in which)
            if self._differs(output, module, *others):
                self.flow.connect([node], output)
        inside = [(layer, node) for layer, node in self._unused if node >= call.since]
        self._unused = [pair for pair in self._unused if pair not in inside]
        for layer, node in reversed(inside):  # the later ones may show how the earlier ones do
            if self.flow.depends(output, node, call.since):
                continue
            hook = layer.register_forward_hook(lambda module, args, output: _changed(output))
            if self._differs(output, module, args, kwargs):
                self.flow.connect([node], output)
            hook.remove()

    def _differs(self, output: Any, module: nn.Module, args: tuple, kwargs: dict) -> bool:
        """Whether a module, called in another way, puts out anything else than ``output``."""
        try:
            with self._pause():
                found = tensors_in(module(*args, **kwargs))
        except Exception:  # whatever a module of others raises: it did look at what changed
            return True
        expected = tensors_in(output)
        return len(found) != len(expected) or not all(map(torch.equal, found, expected))

    @contextmanager
    def _pause(self) -> Iterator[None]:
        self._paused, flops = True, self.flow.flops
        try:
            yield
        finally:
            self._paused, self.flow.flops = False, flops


def _changed(values: Any, where: Callable[[Tensor], bool] = lambda tensor: True) -> Any:
    """Nested values with other tensors of the same kind."""

    def change(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not where(leaf):
            return leaf
        if leaf.dtype == torch.bool:
            return leaf.logical_not()
        noise = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1))
        return leaf + noise.to(leaf) if leaf.is_floating_point() else leaf

    return tree_map(change, values)


def _shrinkage(args: tuple, kwargs: dict, output: object) -> Size:
    """The whole factor from one map ``(N, C, H, W)`` to another; (1, 1) if it is none."""
    maps = [*args, *kwargs.values(), output]
    if len(maps) != 2 or not all(isinstance(m, Tensor) and m.ndim == 4 for m in maps):
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

    def level_stride(self, shape: Shape, channels_last: bool = False) -> Size:
        """Stride of an output of the backbone; (0, 0) if it is no map."""
        if len(shape) != 4:
            return (0, 0)
        size = spatial_size(shape, channels_last)
        # A map keeps the shape of the image; tokens and heads do not.
        return self.stride(size) if _distortion(self.input_size, *size) < 1 else (0, 0)


def _is_channels_last(input_size: Size, shape: Shape) -> bool:
    """Whether an output has the aspect of the image in its axes 1 and 2 rather than 2 and 3."""
    if len(shape) != 4:
        return False
    first, last = (_distortion(input_size, *shape[axis : axis + 2]) for axis in (1, 2))
    return first + CLEARLY < last


def _distortion(input_size: Size, height: int, width: int) -> float:
    """Deviation of the aspect ratio of a map from that of the image; 0 if they are the same."""
    return abs(math.log(height / width * input_size[1] / input_size[0]))
