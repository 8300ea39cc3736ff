"""Hooks that put a state into a backbone: a forward pre-hook and a forward hook per layer.

For a zero-padded layer of stride ``R``, the activation that index ``d`` selects is what the same
layer gives for an input extended by ``R - d`` cells before and ``d`` after, less the first output
row and column. Rows of one batch may hold different indices: each row's content is placed at its
own offset inside one extended tensor, and the layer runs once. No class is replaced and no
parameter renamed; removing the handles restores the backbone bit for bit.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from ..errors import MMDiscardError
from ..utils import on_device_of
from .dataflow import maps_in
from .layers import fill_value, memory_format, trim
from .state import StateSpace, SubsamplingGroup
from .translation import translate

Inputs = dict[str, Tensor]  # by member name, what each layer of a group receives


@dataclass
class Selection:
    """The states that the hooks apply during one forward, and what they record.

    Attributes:
        offsets: ``(M, G, 2)`` selection offsets of the rows.
        entry: enter the backbone at this group, as a column of the states; None for its beginning.
        fed: what the members of the entry group receive, ``(M, C, H, W)`` each.
        record: columns of groups whose members' inputs are wanted.
        recorded: filled in: those inputs by column.
        until: column of a group in ``record`` at which the forward ends, as soon as all its members
            have received their inputs; None for the end of the backbone.
    """

    offsets: Tensor
    entry: int | None = None
    fed: Inputs = field(default_factory=dict)
    record: Collection[int] = ()
    recorded: dict[int, Inputs] = field(default_factory=dict)
    until: int | None = None


class _Ended(Exception):
    """Ends a forward of which the rest is not wanted."""


class StateHooks:
    """Puts states into a backbone while `select` is active; otherwise does nothing.

    A forward may also be entered at a group: the hooks of its members put recorded inputs in the
    place of what they receive, so the forward can be called with a batch of no rows (or of one, for
    backbones that refuse none), and the backbone's own code computes the rest.

    A selection holds for the thread that makes it. In copies and pickles of the backbone the hooks
    do nothing.

    Args:
        backbone: the module that the groups were found in.
        groups: the groups that states index.
    """

    def __init__(self, backbone: nn.Module, groups: Sequence[SubsamplingGroup]) -> None:
        self.space = StateSpace(groups)
        self._of_thread = threading.local()
        self._handles = []
        modules = dict(backbone.named_modules())
        for column, group in enumerate(groups):
            for name in group.members:
                layer = _LAYER_HOOKS[name == ''](self, column, name, group)
                self._handles += [
                    modules[name].register_forward_pre_hook(layer.extend, with_kwargs=True),
                    modules[name].register_forward_hook(layer.trim, with_kwargs=True),
                ]

    @property
    def selection(self) -> Selection | None:
        """The active selection of this thread; None if there is none."""
        return getattr(self._of_thread, 'selection', None)

    @contextmanager
    def select(self, states: Tensor, **options: Any) -> Iterator[Selection]:
        """Run the backbone with row ``m`` in state ``states[m]``; shape ``(M, G)``.

        A forward that ends at `Selection.until` ends what stands in the context with it.

        Args:
            states: one state per row.
            options: fields of `Selection`.
        """
        selection = Selection(self.space.offsets(states), **options)
        self._of_thread.selection = selection
        try:
            yield selection
        except _Ended:
            pass
        finally:
            self._of_thread.selection = None

    def offsets(self, column: int, rows: int) -> Tensor | None:
        """``(rows, 2)`` offsets of one group, or None where every row takes the default index."""
        selection = self.selection
        if selection is None or column < (selection.entry or 0):
            return None
        offsets = selection.offsets[:, column]
        if not offsets.any():
            return None
        repeats, rest = divmod(rows, len(offsets))
        if rest:
            raise MMDiscardError(
                f'group {self.space.groups[column].name!r} sees {rows} rows for {len(offsets)} '
                'images: the backbone mixes images before this layer, so it cannot be searched; '
                'leave the group out of `groups`'
            )
        return offsets.repeat_interleave(repeats, 0)  # windows or patches of an image stay together

    def exchange(self, column: int, name: str, inputs: Tensor, alone: bool = True) -> Tensor:
        """Return the input of a member, replaced at the entry group; record it where asked.

        Args:
            column: of the member's group.
            name: of the member.
            inputs: the map that it receives.
            alone: whether that is the only one; else it is not recorded, as it would not do to
                enter there.
        """
        selection = self.selection
        if selection is None:
            return inputs
        if column == selection.entry:
            return selection.fed[name]
        if alone and column in selection.record:
            recorded = selection.recorded.setdefault(column, {})
            recorded[name] = inputs
            if column == selection.until and len(recorded) == len(
                self.space.groups[column].members
            ):
                raise _Ended
        return inputs

    def remove(self) -> None:
        """Take the hooks out again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __deepcopy__(self, memo: dict) -> 'StateHooks':
        return StateHooks(nn.Identity(), ())

    def __reduce__(self) -> tuple:
        return StateHooks, (nn.Identity(), ())


class _LayerHooks:
    """The pair of one layer: `extend` before it, `trim` after it."""

    def __init__(self, owner: StateHooks, column: int, name: str, group: SubsamplingGroup) -> None:
        self.owner = owner
        self.column = column
        self.name = name
        self.stride = group.stride
        self.factor = group.factor
        self.grid = (int(self.factor[0] > 1), int(self.factor[1] > 1))

    def extend(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self.owner.selection is None:
            return None
        maps = maps_in((args, kwargs))
        received = maps[0]
        inputs = self.owner.exchange(self.column, self.name, received, alone=len(maps) == 1)
        offsets = self.owner.offsets(self.column, len(inputs))
        if inputs is received and offsets is None:
            return None

        def extended(leaf: Any) -> Any:
            if leaf is received:
                leaf, fill = inputs, fill_value(module)
            elif any(leaf is other for other in maps):  # such as a mask, which ends with the image
                leaf, fill = leaf.expand(len(inputs), *leaf.shape[1:]), 0
            else:
                return leaf
            return leaf if offsets is None else self.put_in(leaf, offsets, fill)

        return tree_map(extended, (args, kwargs))

    def put_in(self, inputs: Tensor, offsets: Tensor, fill: float) -> Tensor:
        """Input of the layer for rows with offsets ``(M, 2)``."""
        return extend(inputs, offsets, self.factor, fill)

    def trim(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        if self.owner.selection is None:
            return None
        received = maps_in((args, kwargs))[0]
        offsets = self.owner.offsets(self.column, len(received))
        if offsets is None:
            return None
        shape = tuple(
            size - factor * grid
            for size, factor, grid in zip(received.shape[-2:], self.factor, self.grid, strict=True)
        )

        def trimmed(leaf: Any) -> Any:
            is_map = isinstance(leaf, Tensor) and leaf.ndim > 2
            return trim(module, leaf, self.grid, shape, offsets) if is_map else leaf

        return tree_map(trimmed, output)


class _ImageHooks(_LayerHooks):
    """The pair of the backbone itself: it receives displaced images, and its output is its own."""

    def put_in(self, inputs: Tensor, offsets: Tensor, fill: float) -> Tensor:
        return translate(inputs, -offsets * torch.tensor(self.stride))

    def trim(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        return None


_LAYER_HOOKS = {False: _LayerHooks, True: _ImageHooks}


def extend(inputs: Tensor, offsets: Tensor, factor: tuple[int, int], fill: float) -> Tensor:
    """Extend every row by ``R - d`` before and ``d`` after, along the axes that subsample.

    Args:
        inputs: ``(M, ..., H, W)``.
        offsets: ``(M, 2)`` integer offsets (dy, dx), each in ``0..R-1``.
        factor: ``(Ry, Rx)``.
        fill: value outside the image.

    Returns:
        ``(M, ..., H + Ry, W + Rx)``; an axis of factor 1 keeps its size.
    """
    extra = [size if size > 1 else 0 for size in factor]
    distinct, which = offsets.unique(dim=0, return_inverse=True)
    before = [
        [extra[0] - dy if extra[0] else 0, extra[1] - dx if extra[1] else 0]
        for dy, dx in distinct.tolist()
    ]
    if len(before) == 1:
        top, left = before[0]
        return F.pad(inputs, (left, extra[1] - left, top, extra[0] - top), value=fill)
    height, width = inputs.shape[-2:]
    extended = torch.empty(
        (*inputs.shape[:-2], height + extra[0], width + extra[1]),
        dtype=inputs.dtype,
        device=inputs.device,
        memory_format=memory_format(inputs),
    ).fill_(fill)
    for index, (top, left) in enumerate(before):
        rows = on_device_of((which == index).nonzero().flatten(), inputs)
        extended[rows, ..., top : top + height, left : left + width] = inputs[rows]
    return extended
