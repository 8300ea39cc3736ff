"""Finding the subsampling groups of any backbone, without a table of architectures.

Layers that subsample are grouped by input stride and factor, in execution order. Not every strided
layer is on the trunk: spatial-reduction attention, for one, subsamples keys and values only. A
group is on the trunk if and only if it is a *cut*: with its outputs held constant, the deepest
feature map does not depend on the image. Members that the cut does not need are dropped, so a group
is the smallest cut. Every other output level must be independent of the group: where displaced maps
meet maps that are not displaced, as at the skips of an encoder-decoder, no translation aligns the
result.

Where strided layers are no cut, because something beside them subsamples by a function, the module
around both may be one: it is taken as a black box if displacing its input displaces its output.

The backbone runs twice: at the size of the images, where everything is recorded, and on a small
image of another shape, which shows whether the maps grow with the image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile

import torch
from torch import nn

from ..errors import MMDiscardError
from .backbone import Size, as_levels, inference_mode, noise_image
from .black_box import displaces
from .dataflow import IMAGE, Dataflow
from .layers import unsupported_because
from .reachability import levels_touched, smallest_cut
from .sizes import Sizes, grows
from .state import SubsamplingGroup
from .strides import Layer, Trace
from .subsampling_map import SubsamplingMap
from .tracing import small_sizes, trace_image

OFF_TRUNK = 'not on the trunk: the image reaches the deepest output past it too'
TWICE = 'it is called more than once in a forward'
UNLIKE = 'it receives or returns maps of several sizes'
BY_HAND = "groups=[dict(members=['NAME', ...])]"


def find_subsampling(
    backbone: nn.Module, input_size: Size = (224, 224), in_channels: int | None = None
) -> list[SubsamplingGroup]:
    """Subsampling groups on the trunk of ``backbone``, in execution order.

    Args:
        backbone: any module that maps images ``(N, C, H, W)`` to one or more feature maps. Its
            weights, buffers and mode stay as they are.
        input_size: ``(H, W)`` of the image to trace with; one that the backbone accepts.
        in_channels: ``C``; None to find out by running.

    Raises:
        MMDiscardError: if the backbone cannot be run at ``input_size``.
    """
    return list(map_subsampling(backbone, input_size, in_channels).groups)


def map_subsampling(
    backbone: nn.Module,
    input_size: Size = (224, 224),
    in_channels: int | None = None,
    expected_channels: int | None = None,
) -> SubsamplingMap:
    """`find_subsampling` together with the strides of the outputs and what was left out.

    Args:
        backbone: as for `find_subsampling`.
        input_size: likewise.
        in_channels: likewise.
        expected_channels: what to try first where ``in_channels`` is None.

    Raises:
        MMDiscardError: as `find_subsampling`.
    """
    with inference_mode(backbone):
        trace = trace_image(backbone, input_size, in_channels, expected_channels)
        small = small_sizes(backbone, trace)
        if small.input_size != input_size:
            trace = trace.laid_out_as(small)
        _check_flow(backbone, trace)
        groups, rejected = _groups_of_layers(backbone, trace)
        loose = [layer for layer in trace.layers if rejected.get(layer.name) == OFF_TRUNK]
        if loose or trace.unseen:
            groups += _groups_of_modules(backbone, trace, loose, groups)
    fixed = _is_fixed(trace, small, groups)
    order = {layer.name: layer.order for layer in (*trace.layers, *trace.modules)}
    taken = [name for group in groups for name in group.members]
    explained = {group.output_stride for group in groups}
    return SubsamplingMap(
        groups=in_order(groups, order),
        strides=trace.strides,
        rejected={n: why for n, why in rejected.items() if not any(within(n, m) for m in taken)},
        input_size=input_size,
        in_channels=trace.in_channels,
        small_size=input_size if fixed else small.input_size,
        shapes=trace.shapes,
        channels_last=trace.channels_last,
        fixed=fixed,
        unseen=tuple(stride for stride in trace.unseen if stride not in explained),
        layers=(*trace.layers, *trace.modules),
        macs=trace.macs,
        deepest=trace.deepest,
        flow=trace.flow,
        sample=trace.sample,
    )


def refusals(
    backbone: nn.Module, flow: Dataflow, members: Sequence[Layer], behind: Sequence[int]
) -> dict[str, str]:
    """Why members of a cut cannot be searched, by name; empty if they can.

    Args:
        backbone: what they belong to.
        flow: of the backbone.
        members: layers that together cut the image off.
        behind: the output levels that lie behind them.
    """
    names = [member.name for member in members]
    mixed = set(levels_touched(flow, names)) - set(behind)
    if mixed:
        return dict.fromkeys(names, _mixing(mixed))
    reasons = {member.name: _unsupported(backbone, member) for member in members}
    return {name: reason for name, reason in reasons.items() if reason}


def _unsupported(backbone: nn.Module, layer: Layer) -> str:
    if layer.calls > 1:
        return TWICE
    return UNLIKE if layer.unlike else unsupported_because(backbone.get_submodule(layer.name))


def group_of(members: Sequence[Layer], behind: Sequence[int]) -> SubsamplingGroup:
    """The group that layers of one kind make up."""
    names = tuple(member.name for member in members)
    stride, factor = members[0].kind
    return SubsamplingGroup(_common(names), names, factor, stride, tuple(behind))


def in_order(
    groups: Iterable[SubsamplingGroup], order: dict[str, int]
) -> tuple[SubsamplingGroup, ...]:
    """Groups by the first call among their members, under names that differ."""
    ordered = []
    for group in groups:
        members = tuple(sorted(group.members, key=order.__getitem__))
        ordered.append(replace(group, members=members))
    ordered.sort(key=lambda group: order[group.members[0]])
    names = [group.name for group in ordered]
    return tuple(
        replace(group, name=group.members[0]) if names.count(group.name) > 1 else group
        for group in ordered
    )


def within(name: str, module: str) -> bool:
    """Whether ``name`` is ``module`` or inside it."""
    return f'{name}.'.startswith(f'{module}.')


def _check_flow(backbone: nn.Module, trace: Trace) -> None:
    """Check that all that varies with the image was seen to depend on it.

    Raises:
        MMDiscardError: if not.
    """
    seen = trace.flow.levels_reached([IMAGE])
    lost = [i for i in range(len(trace.shapes)) if i not in seen]
    if not lost:
        return
    one, other = (
        as_levels(backbone(noise_image(backbone, trace.input_size, trace.in_channels, seed)))
        for seed in (0, 1)
    )
    varying = [i for i in lost if not torch.equal(one[i], other[i])]
    if varying:
        raise MMDiscardError(
            f'output level {varying[0]} of {type(backbone).__name__} is computed from the image '
            'outside of PyTorch (by NumPy, for example), so what it depends on cannot be followed'
        )


def _is_fixed(trace: Trace, small: Sizes, groups: Sequence[SubsamplingGroup]) -> bool:
    """Whether maps in front of groups or at output levels do not grow with the image.

    Raises:
        MMDiscardError: if images are resized by anything but a whole factor, so that displacements
            are no whole number of pixels.
    """
    names = {name for group in groups for name in group.members}
    sizes = (trace.input_size, small.input_size)
    maps = [one.maps(names, trace.channels_last) for one in (trace.sizes, small)]
    fixed = [
        (size, stride)
        for size, other, stride in zip(*maps, trace.strides_of_maps(names), strict=True)
        if any(stride) and not grows(sizes, (size, other), stride)
    ]
    for size, stride in fixed:
        axes = zip(trace.input_size, size, stride, strict=True)
        if any(abs(pixels / step - count) >= 1 for pixels, count, step in axes):
            raise MMDiscardError(
                f'the backbone makes maps of {size} of images of {trace.input_size} and of '
                f'{small.input_size} alike, which is no whole factor; resize all images to the '
                'size that it works with, and set `input_size` to it'
            )
    return bool(fixed)


def _groups_of_layers(
    backbone: nn.Module, trace: Trace
) -> tuple[list[SubsamplingGroup], dict[str, str]]:
    groups, rejected = [], {}
    for alike in _by_kind(trace.layers):
        group, reasons = _smallest_group(backbone, trace, alike)
        rejected |= reasons
        groups += [group] if group else []
    return groups, rejected


def _smallest_group(
    backbone: nn.Module, trace: Trace, alike: Sequence[Layer]
) -> tuple[SubsamplingGroup | None, dict[str, str]]:
    """The group in layers of one kind, if there is one, and why the others are not in it."""
    layers = {layer.name: layer for layer in alike}
    names, behind = smallest_cut(trace.flow, list(layers), trace.deepest)
    reasons = {name: OFF_TRUNK for name in layers if name not in names}
    members = [layers[name] for name in names]
    refused = refusals(backbone, trace.flow, members, behind) if members else {}
    usable = members and not refused
    return group_of(members, behind) if usable else None, reasons | refused


def _groups_of_modules(
    backbone: nn.Module,
    trace: Trace,
    loose: Sequence[Layer],
    groups: Sequence[SubsamplingGroup],
) -> list[SubsamplingGroup]:
    """Groups in which modules stand for what subsamples inside them, the innermost that will do.

    Args:
        backbone: what is searched.
        trace: of it.
        loose: strided layers that are no cut by themselves.
        groups: found already; what is around one of their members would displace it twice.
    """
    found: list[SubsamplingGroup] = []
    for alike in sorted(_by_kind(trace.modules), key=_area):
        taken = [name for group in (*groups, *found) for name in group.members]
        boxes = [
            box
            for box in alike
            if not any(within(name, box.name) or within(box.name, name) for name in taken)
        ]
        boxes.sort(key=lambda box: box.name.count('.'))
        beside = [layer for layer in loose if boxes and layer.kind == boxes[0].kind]
        group = _group_that_displaces(backbone, trace, boxes, beside)
        found += [group] if group else []
    return found


def _group_that_displaces(
    backbone: nn.Module, trace: Trace, boxes: list[Layer], beside: Sequence[Layer]
) -> SubsamplingGroup | None:
    """The smallest cut by modules that can be displaced, and strided layers beside them.

    Trying whether a module can be displaced takes runs of it, so only what a cut needs is tried.
    """
    while boxes:
        names = [layer.name for layer in (*boxes, *beside)]
        cut, _ = smallest_cut(trace.flow, names, trace.deepest)
        unfit = [
            box
            for box in boxes
            if box.name in cut and not displaces(backbone.get_submodule(box.name), box)
        ]
        if not unfit:
            return _smallest_group(backbone, trace, [*boxes, *beside])[0]
        boxes = [box for box in boxes if box not in unfit]
    return None


def _by_kind(layers: Iterable[Layer]) -> list[list[Layer]]:
    alike: dict[tuple, list[Layer]] = {}
    for layer in layers:
        alike.setdefault(layer.kind, []).append(layer)
    return list(alike.values())


def _area(alike: Sequence[Layer]) -> int:
    """Number of activations in a block: the smaller the factor, the finer the cut."""
    return alike[0].factor[0] * alike[0].factor[1]


def _mixing(levels: set[int]) -> str:
    listed = ', '.join(map(str, sorted(levels)))
    many = len(levels) > 1
    return (
        f'output level{"s" if many else ""} {listed} join{"" if many else "s"} what it subsamples '
        'with maps that come past it, so a state has no one displacement there'
    )


def _common(members: Sequence[str]) -> str:
    """The longest module path that all members share; the first member if they share none."""
    if len(members) == 1:
        return members[0]
    levels = zip(*(name.split('.') for name in members), strict=False)
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels)]
    return '.'.join(shared) or members[0]
