"""Finding the subsampling groups of any backbone, without a table of architectures.

Layers that subsample are grouped by input stride and factor, in execution order. Not every strided
layer is on the trunk: spatial-reduction attention, for one, subsamples keys and values only. A
group is on the trunk if and only if it is a *cut*: with its outputs held constant, nothing of the
image reaches the deepest feature map. Members that the cut does not need are dropped, so a group is
the smallest cut. Every other level must not depend on the group at all: where what it moves meets
what it does not move, as at the skips of an encoder-decoder, no state of it agrees with itself.

Where strided layers are no cut, because something beside them subsamples by a function, the module
around both may be one: it is taken as a black box if displacing its input displaces its output.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from torch import nn

from .backbone import Size, inference_mode
from .black_box import displaces
from .layers import unsupported_because
from .reachability import levels_touched, smallest_cut
from .state import SubsamplingGroup
from .strides import Layer, Trace, trace_strides

OFF_TRUNK = 'not on the trunk: the image reaches the deepest output past it too'
TWICE = 'it is called more than once in a forward'
SMALLEST = 96  # sides of the images that cuts are tried with, unless the user's are smaller
BY_HAND = "groups=[dict(members=['NAME', ...])]"


@dataclass(frozen=True)
class SubsamplingMap:
    """What one backbone looks like to the method.

    Attributes:
        groups: trunk groups in execution order.
        strides: stride (Sy, Sx) in image pixels of every output level of the backbone; (0, 0) for
            an output that is not a map.
        rejected: strided layers that are not searched, and why.
        unseen: strides that nothing which is searched or rejected explains: something subsamples
            inside a forward, where no hook can reach it.
        input_size: ``(H, W)`` of the image it was traced with.
        layers: all that subsamples: strided layers, then modules around what does.
    """

    groups: tuple[SubsamplingGroup, ...]
    strides: tuple[Size, ...]
    rejected: dict[str, str]
    input_size: Size
    unseen: tuple[Size, ...] = ()
    layers: tuple[Layer, ...] = ()

    def left_out(self, shown: int = 3) -> list[str]:
        """What is not searched and why, a line for each reason, with ``shown`` names at most."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.rejected.items():
            by_reason.setdefault(reason, []).append(f'`{name}`')
        lines = [f'{_some(names, shown)}: {reason}' for reason, names in by_reason.items()]
        if self.unseen:
            strides = ', '.join(str(stride[0]) for stride in self.unseen)
            lines.append(f'stride {strides} is reached inside a forward, by no layer or module')
        return lines


def find_subsampling(backbone: nn.Module, input_size: Size = (224, 224)) -> list[SubsamplingGroup]:
    """Subsampling groups on the trunk of ``backbone``, in execution order.

    Args:
        backbone: any module that maps ``(N, 3, H, W)`` to one or more feature maps. Its weights,
            buffers and mode stay as they are.
        input_size: ``(H, W)`` of the image to trace with; one that the backbone accepts.

    Raises:
        MMDiscardError: if the backbone cannot be run at ``input_size``.
    """
    return list(map_subsampling(backbone, input_size).groups)


def map_subsampling(backbone: nn.Module, input_size: Size = (224, 224)) -> SubsamplingMap:
    """`find_subsampling` together with the strides of the outputs and what was left out."""
    with inference_mode(backbone):
        trace = trace_strides(backbone, input_size)
        size = _probe_size(backbone, trace, input_size)
        groups, rejected = _groups_of_layers(backbone, trace.layers, size)
        loose = [layer for layer in trace.layers if rejected.get(layer.name) == OFF_TRUNK]
        if loose or trace.unseen:
            groups += _groups_of_modules(backbone, trace.modules, loose, groups, size)
    order = {layer.name: layer.order for layer in (*trace.layers, *trace.modules)}
    taken = [name for group in groups for name in group.members]
    explained = {group.output_stride for group in groups}
    return SubsamplingMap(
        groups=in_order(groups, order),
        strides=trace.strides,
        rejected={n: why for n, why in rejected.items() if not any(within(n, m) for m in taken)},
        input_size=input_size,
        unseen=tuple(stride for stride in trace.unseen if stride not in explained),
        layers=(*trace.layers, *trace.modules),
    )


def refusals(
    backbone: nn.Module, members: Sequence[Layer], behind: Sequence[int], input_size: Size
) -> dict[str, str]:
    """Why members of a cut cannot be searched, by name; empty if they can.

    Args:
        backbone: in evaluation mode.
        members: layers that together cut the image off.
        behind: the output levels that lie behind them.
        input_size: ``(H, W)`` of the image to try with.
    """
    names = [member.name for member in members]
    mixed = set(levels_touched(backbone, names, input_size)) - set(behind)
    if mixed:
        return dict.fromkeys(names, _mixing(mixed))
    reasons = {
        member.name: TWICE
        if member.calls > 1
        else unsupported_because(backbone.get_submodule(member.name))
        for member in members
    }
    return {name: reason for name, reason in reasons.items() if reason}


def group_of(members: Sequence[Layer], behind: Sequence[int]) -> SubsamplingGroup:
    """The group of layers of one kind that nothing speaks against."""
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


def _probe_size(backbone: nn.Module, trace: Trace, input_size: Size) -> Size:
    """A smaller size where the same layers run in the same order, for what cuts off what.

    That does not depend on the size, and trying it takes many forwards.
    """
    size = input_size
    while min(size) // 2 >= SMALLEST:
        size = (size[0] // 2, size[1] // 2)
    try:
        smaller = trace if size == input_size else trace_strides(backbone, size)
    except Exception:  # whatever a backbone of others raises at a size it does not take
        return input_size
    return size if smaller.sequence == trace.sequence else input_size


def _groups_of_layers(
    backbone: nn.Module, layers: Sequence[Layer], input_size: Size
) -> tuple[list[SubsamplingGroup], dict[str, str]]:
    groups, rejected = [], {}
    for alike in _by_kind(layers):
        group, reasons = _smallest_group(backbone, alike, input_size)
        rejected |= reasons
        groups += [group] if group else []
    return groups, rejected


def _smallest_group(
    backbone: nn.Module, alike: Sequence[Layer], input_size: Size
) -> tuple[SubsamplingGroup | None, dict[str, str]]:
    """The group in layers of one kind, if there is one, and why the others are not in it."""
    layers = {layer.name: layer for layer in alike}
    names, behind = smallest_cut(backbone, list(layers), input_size)
    reasons = {name: OFF_TRUNK for name in layers if name not in names}
    members = [layers[name] for name in names]
    refused = refusals(backbone, members, behind, input_size) if members else {}
    usable = members and not refused
    return group_of(members, behind) if usable else None, reasons | refused


def _groups_of_modules(
    backbone: nn.Module,
    modules: Sequence[Layer],
    loose: Sequence[Layer],
    groups: Sequence[SubsamplingGroup],
    input_size: Size,
) -> list[SubsamplingGroup]:
    """Groups in which modules stand for what subsamples inside them, the innermost that will do.

    Args:
        modules: all that shrink a map.
        loose: strided layers that are no cut by themselves.
        groups: found already; what is around one of their members would displace it twice.
    """
    found: list[SubsamplingGroup] = []
    for alike in sorted(_by_kind(modules), key=_area):
        taken = [name for group in (*groups, *found) for name in group.members]
        boxes = [
            box
            for box in alike
            if not any(within(name, box.name) or within(box.name, name) for name in taken)
            and displaces(backbone.get_submodule(box.name), box)
        ]
        if not boxes:
            continue
        boxes.sort(key=lambda box: box.name.count('.'))
        beside = [layer for layer in loose if layer.kind == boxes[0].kind]
        group, _ = _smallest_group(backbone, [*boxes, *beside], input_size)
        found += [group] if group else []
    return found


def _by_kind(layers: Iterable[Layer]) -> list[list[Layer]]:
    alike: dict[tuple, list[Layer]] = {}
    for layer in layers:
        alike.setdefault(layer.kind, []).append(layer)
    return list(alike.values())


def _area(alike: Sequence[Layer]) -> int:
    """How many activations of a block are discarded, and one: small factors are the finer cut."""
    return alike[0].factor[0] * alike[0].factor[1]


def _mixing(levels: set[int]) -> str:
    listed = ', '.join(map(str, sorted(levels)))
    many = len(levels) > 1
    return (
        f'output level{"s" if many else ""} {listed} join{"" if many else "s"} what it subsamples '
        'with maps that come past it, so a state has no one displacement there'
    )


def _some(names: Sequence[str], shown: int) -> str:
    more = f' and {len(names) - shown} more' if len(names) > shown else ''
    return ', '.join(names[:shown]) + more


def _common(members: Sequence[str]) -> str:
    """The longest module path that all members share; the first member if they share none."""
    if len(members) == 1:
        return members[0]
    levels = zip(*(name.split('.') for name in members), strict=False)
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels)]
    return '.'.join(shared) or members[0]
