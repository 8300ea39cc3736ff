"""Finding the subsampling groups of any backbone, without a table of architectures.

Layers that subsample are grouped by input stride and factor, in execution order. Not every strided
layer is on the trunk: spatial-reduction attention, for one, subsamples keys and values only. A
group is on the trunk if and only if it is a *cut*: with its outputs held constant, nothing of the
image reaches the deepest feature map. That is tested by feeding an image of NaN, which survives
every arithmetic operation (zero-initialised weights included), and looking for NaN in the output.
Members that the cut does not need are dropped, so a group is the smallest cut.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor, nn

from ..errors import MMDiscardError
from .layers import subsampling_factor, unsupported_because
from .state import SubsamplingGroup

Size = tuple[int, int]


@dataclass(frozen=True)
class SubsamplingMap:
    """What one backbone looks like to the method.

    Attributes:
        groups: trunk groups in execution order.
        strides: stride (Sy, Sx) in image pixels of every output level of the backbone; (0, 0) for
            an output that is not a map.
        rejected: strided layers that are not searched, and why.
        input_size: ``(H, W)`` of the image it was traced with.
    """

    groups: tuple[SubsamplingGroup, ...]
    strides: tuple[Size, ...]
    rejected: dict[str, str]
    input_size: Size


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
            members, levels = _smallest_cut(backbone, list(dict.fromkeys(names)), input_size)
            reasons = _refusals(backbone, names, members, times_called)
            rejected |= reasons
            if members and not reasons.keys() & members:
                groups.append(SubsamplingGroup(_common(members), members, factor, stride, levels))
    return SubsamplingMap(
        groups=tuple(_with_unique_names(groups)),
        strides=tuple(ruler.stride(shape[2:]) if len(shape) == 4 else (0, 0) for shape in shapes),
        rejected=rejected,
        input_size=input_size,
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
    if isinstance(which, str):
        ranges = {'all': found, 'inner': found[1:-1]}
        if which not in ranges:
            raise MMDiscardError(
                f"groups={which!r} is not known; write 'all', 'inner' or a list of: {table}"
            )
        if not ranges[which]:
            raise MMDiscardError(
                f"groups='inner' leaves nothing of {len(found)} group(s); use 'all' or a list of: "
                f'{table}'
            )
        return tuple(ranges[which])
    if not isinstance(which, Sequence):
        raise MMDiscardError(
            f"groups={which!r} is not known; write 'all', 'inner' or a list of: {table}"
        )
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


@contextmanager
def inference_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule's own flag is back.

    The flags are set one by one because some backbones override `train` with side effects.
    """
    flags = [(m, m.training) for m in module.modules()]
    for submodule, _ in flags:
        submodule.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for submodule, training in flags:
            submodule.training = training


def as_levels(output: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Whatever a backbone returns, as a tuple of its output levels."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


def blank_image(backbone: nn.Module, input_size: Size, value: float = 0.0) -> Tensor:
    """One constant image ``(1, 3, H, W)`` on the device and in the precision of ``backbone``."""
    weight = next(backbone.parameters(), torch.zeros(()))
    return weight.new_full((1, 3, *input_size), value)


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
    """

    def __init__(self, input_size: Size) -> None:
        self.input_size = input_size
        self.known: tuple[set[int], set[int]] = ({1}, {1})

    def stride(self, size: Size) -> Size:
        return tuple(
            min(known, key=lambda stride: abs(math.log(full / (cells * stride))))
            for full, cells, known in zip(self.input_size, size, self.known, strict=True)
        )

    def input_stride(self, size: Size, factor: Size) -> Size:
        """Stride of a layer's input; what it puts out is known from now on."""
        stride = self.stride(size)
        for known, s, r in zip(self.known, stride, factor, strict=True):
            known.add(s * r)
        return stride


def _smallest_cut(
    backbone: nn.Module, names: list[str], input_size: Size
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The members without which the image reaches the deepest output, and the levels behind them.

    Both are empty if even all of ``names`` together are no cut.
    """

    def levels_behind(held: Sequence[str]) -> tuple[int, ...]:
        return _levels_behind(backbone, held, input_size)

    if not levels_behind(names):
        return (), ()
    # What is not on the trunk tends to come before what is, so start from the end.
    start = next(i for i in reversed(range(len(names))) if levels_behind(names[i:]))
    members = names[start:]
    for name in members[1:]:
        others = [other for other in members if other != name]
        if levels_behind(others):
            members = others
    return tuple(members), levels_behind(members)


def _levels_behind(backbone: nn.Module, held: Sequence[str], input_size: Size) -> tuple[int, ...]:
    """Output levels that the image does not reach while the outputs of ``held`` are constant.

    Empty unless the deepest level (the one with the fewest cells) is among them.
    """
    handles = [
        backbone.get_submodule(name).register_forward_hook(
            lambda module, args, output: torch.zeros_like(output)
        )
        for name in held
    ]
    try:
        levels = as_levels(backbone(blank_image(backbone, input_size, float('nan'))))
    finally:
        for handle in handles:
            handle.remove()
    cells = [math.prod(level.shape[2:]) for level in levels]
    deepest = max(i for i, count in enumerate(cells) if count == min(cells))
    behind = tuple(i for i, level in enumerate(levels) if not level.isnan().any())
    return behind if deepest in behind else ()


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
