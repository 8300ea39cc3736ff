"""One state in a backbone, by operations that can be traced into a graph.

`StateHooks` of the core reads states out of tensors while the backbone runs, which a graph cannot
hold. Here a state is known as whole numbers before the trace begins, and all images take the same.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from ..subsampling import SubsamplingGroup
from ..subsampling.dataflow import maps_in
from ..subsampling.layers import fill_value, trim

Inputs = dict[str, Tensor]  # by member name, what each layer of a group receives


@dataclass
class TracedState:
    """State applied in one forward, see `mmdiscard.subsampling.hooks.Selection`."""

    state: tuple[int, ...]
    entry: int | None = None
    fed: Inputs = field(default_factory=dict)
    record: Collection[int] = ()
    recorded: dict[int, Inputs] = field(default_factory=dict)


class TracedHooks:
    """Puts one state into a backbone while `select` is active; otherwise does nothing.

    At the entry group, layers receive recorded inputs instead of their own. What was computed in
    front of it is then used by nothing, and exporters remove it from the graph.
    """

    def __init__(self, backbone: nn.Module, groups: Sequence[SubsamplingGroup]) -> None:
        self.selected: TracedState | None = None
        self._handles = []
        modules = dict(backbone.named_modules())
        for column, group in enumerate(groups):
            for name in group.members:
                layer = _TracedLayer(self, column, name, group.factor)
                self._handles += [
                    modules[name].register_forward_pre_hook(layer.extend, with_kwargs=True),
                    modules[name].register_forward_hook(layer.trim, with_kwargs=True),
                ]

    @contextmanager
    def select(self, state: tuple[int, ...], **options: Any) -> Iterator[TracedState]:
        """Run the backbone in one state; ``options`` are fields of `TracedState`."""
        self.selected = TracedState(state, **options)
        try:
            yield self.selected
        finally:
            self.selected = None

    def remove(self) -> None:
        """Take the hooks out again."""
        while self._handles:
            self._handles.pop().remove()


class _TracedLayer:
    """The pair of one layer: `extend` before it, `trim` after it."""

    def __init__(self, owner: TracedHooks, column: int, name: str, factor: tuple[int, int]) -> None:
        self.owner = owner
        self.column = column
        self.name = name
        self.factor = factor
        self.grid = (int(factor[0] > 1), int(factor[1] > 1))

    def extend(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        selected = self.owner.selected
        if selected is None:
            return None
        received, *others = maps_in((args, kwargs))
        inputs = received
        if self.column == selected.entry:
            inputs = selected.fed[self.name]
        elif self.column in selected.record and not others:
            selected.recorded.setdefault(self.column, {})[self.name] = received
        padding = self._padding()

        def extended(leaf: Any) -> Any:
            if leaf is received:
                leaf, fill = inputs, fill_value(module)
            elif any(leaf is other for other in others):  # such as a mask, ends with the image
                fill = 0
            else:
                return leaf
            return leaf if padding is None else F.pad(leaf, padding, value=fill)

        return tree_map(extended, (args, kwargs))

    def trim(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        if self.owner.selected is None or self._padding() is None:
            return None
        offsets = torch.tensor([self._offsets()])
        sizes = zip(maps_in((args, kwargs))[0].shape[-2:], self.factor, self.grid, strict=True)
        shape = tuple(size - factor * grid for size, factor, grid in sizes)

        def trimmed(leaf: Any) -> Any:
            is_map = isinstance(leaf, Tensor) and leaf.ndim > 2
            return trim(module, leaf, self.grid, shape, offsets) if is_map else leaf

        return tree_map(trimmed, output)

    def _offsets(self) -> tuple[int, int]:
        return divmod(self.owner.selected.state[self.column], self.factor[1])

    def _padding(self) -> tuple[int, int, int, int] | None:
        """Cells to add at left, right, top and bottom; None in the default state."""
        dy, dx = self._offsets()
        before_entry = self.column < (self.owner.selected.entry or 0)
        if before_entry or (dy, dx) == (0, 0):
            return None
        (ry, rx), (grid_y, grid_x) = self.factor, self.grid
        return (rx - dx) * grid_x, dx * grid_x, (ry - dy) * grid_y, dy * grid_y
