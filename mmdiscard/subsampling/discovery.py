"""Finding the subsampling groups of any backbone, without a table of architectures.

Layers that subsample are grouped by input stride and factor, in execution order. Not every strided
layer is on the trunk: spatial-reduction attention, for one, subsamples keys and values only. A
group is on the trunk if and only if it is a *cut*: with its outputs held constant, nothing of the
image reaches the deepest feature map. Members that the cut does not need are dropped, so a group is
the smallest cut. Every other level must not depend on the group at all: where what it moves meets
what it does not move, as at the skips of an encoder-decoder, no state of it agrees with itself.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from torch import nn

from ..errors import MMDiscardError
from .backbone import Size, as_levels, blank_image, inference_mode
from .cuts import levels_touched, smallest_cut
from .layers import subsampling_factor, unsupported_because
from .state import SubsamplingGroup

BLUR = 0.15  # how far the ratio of sizes may be off a stride, relative to it


@dataclass(frozen=True)
class SubsamplingMap:
    """What one backbone looks like to the method.

    Attributes:
        groups: trunk groups in execution order.
        strides: stride (Sy, Sx) in image pixels of every output level of the backbone; (0, 0) for
            an output that is not a map.
        rejected: strided layers that are not searched, and why.
        unseen: strides that no layer explains: something subsamples inside a forward, by a function
            or by slicing, where no hook can reach it.
        input_size: ``(H, W)`` of the image it was traced with.
    """

    groups: tuple[SubsamplingGroup, ...]
    strides: tuple[Size, ...]
    rejected: dict[str, str]
    input_size: Size
    unseen: tuple[Size, ...] = ()


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
        calls, shapes = _trace(backbone, input_size)
        ruler = _StrideRuler(input_size)
        candidates: dict[tuple[Size, Size], list[str]] = {}
        for name, factor, size in calls:
            candidates.setdefault((ruler.input_stride(size, factor), factor), []).append(name)
        times_called = Counter(name for name, _, _ in calls)
        groups, rejected = [], {}
        for (stride, factor), names in candidates.items():
            names = list(dict.fromkeys(names))
            members, levels = smallest_cut(backbone, names, input_size)
            reasons = _refusals(backbone, names, members, times_called)
            if members:
                mixed = set(levels_touched(backbone, members, input_size)) - set(levels)
                reasons |= dict.fromkeys(members, _mixing(mixed)) if mixed else {}
            rejected |= reasons
            if members and not reasons.keys() & members:
                groups.append(SubsamplingGroup(_common(members), members, factor, stride, levels))
        strides = tuple(ruler.level_stride(shape) for shape in shapes)
    return SubsamplingMap(
        groups=tuple(_with_unique_names(groups)),
        strides=strides,
        rejected=rejected,
        input_size=input_size,
        unseen=tuple(sorted(ruler.unseen)),
    )


def select_groups(
    found: Sequence[SubsamplingGroup], which: str | Sequence[str | int]
) -> tuple[SubsamplingGroup, ...]:
    """The groups to search, in execution order.

    Args:
        found: all groups of the backbone.
        which: ``'all'``, ``'inner'`` (all but the first and the last, the paper's choice), or a
            list of group names, member names, or positions (negative ones count from the deepest).

    Raises:
        MMDiscardError: if there is no such group, or none is left.
    """
    table = '; '.join(
        f'{i}: {group.name} (factor {group.factor[0]}x{group.factor[1]}, input stride '
        f'{group.stride[0]})'
        for i, group in enumerate(found)
    )
    if not found:
        raise MMDiscardError(
            'this backbone has nothing to search: no layer on its trunk subsamples'
        )
    ranges = {'all': found, 'inner': found[1:-1]}
    if not isinstance(which, Sequence) or (isinstance(which, str) and which not in ranges):
        raise MMDiscardError(
            f"groups={which!r} is not known; write 'all', 'inner' or a list of: {table}"
        )
    if isinstance(which, str):
        if not ranges[which]:
            raise MMDiscardError(
                f"groups='inner' leaves nothing of {len(found)} group(s); use 'all' or a list of: "
                f'{table}'
            )
        return tuple(ranges[which])
    chosen = {_position(found, key, table) for key in which}
    if not chosen:
        raise MMDiscardError(f'groups is an empty list; choose from: {table}')
    return tuple(found[i] for i in sorted(chosen))


def _position(found: Sequence[SubsamplingGroup], key: str | int, table: str) -> int:
    for i, group in enumerate(found):
        if isinstance(key, bool):
            break
        if key == group.name or key in group.members or key in (i, i - len(found)):
            return i
    raise MMDiscardError(f'there is no subsampling group {key!r}; choose from: {table}')


def _trace(backbone: nn.Module, input_size: Size) -> tuple[list[tuple], list[tuple[int, ...]]]:
    """Calls of strided layers as (name, factor, input size) in order; shapes of the outputs."""
    calls: list[tuple[str, Size, Size]] = []

    def recorder(name: str, factor: Size) -> Callable:
        return lambda module, args: calls.append((name, factor, tuple(args[0].shape[-2:])))

    factors = {name: subsampling_factor(module) for name, module in backbone.named_modules()}
    handles = [
        backbone.get_submodule(name).register_forward_pre_hook(recorder(name, factor))
        for name, factor in factors.items()
        if factor != (1, 1)
    ]
    try:
        output = backbone(blank_image(backbone, input_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise MMDiscardError(
            f'{type(backbone).__name__} cannot be traced at input size {input_size}: {error}; set '
            '`input_size` to a size that it accepts'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls, [tuple(level.shape) for level in as_levels(output)]


class _StrideRuler:
    """Reads strides off sizes, which padding and odd sizes blur.

    A stride is a product of factors met so far; of these, the nearest to the ratio of sizes is it.
    Where none is near, something that is no layer subsampled, and the ratio itself is the stride.
    """

    def __init__(self, input_size: Size) -> None:
        self.input_size = input_size
        self.known: tuple[set[int], set[int]] = ({1}, {1})
        self.unseen: set[Size] = set()

    def stride(self, size: Size) -> Size:
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


def _refusals(
    backbone: nn.Module, names: Sequence[str], members: Sequence[str], times_called: Counter
) -> dict[str, str]:
    """Why layers are not searched, by module name."""
    reasons = {name: 'not on the trunk' for name in names if name not in members}
    for name in members:
        module = backbone.get_submodule(name)
        reason = unsupported_because(module)
        if times_called[name] > 1:
            reason = 'it is called more than once in a forward'
        if reason:
            reasons[name] = reason
    return reasons


def _mixing(levels: set[int]) -> str:
    listed = ', '.join(map(str, sorted(levels)))
    return (
        f'output level {listed} of the backbone mixes what this layer subsamples with what comes '
        'past it, so that a state would not agree with itself'
    )


def _common(members: Sequence[str]) -> str:
    """The longest module path that all members share; the first member if they share none."""
    if len(members) == 1:
        return members[0]
    levels = zip(*(name.split('.') for name in members), strict=False)
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels)]
    return '.'.join(shared) or members[0]


def _with_unique_names(groups: Sequence[SubsamplingGroup]) -> list[SubsamplingGroup]:
    names = [group.name for group in groups]
    return [
        replace(group, name=group.members[0]) if names.count(group.name) > 1 else group
        for group in groups
    ]
