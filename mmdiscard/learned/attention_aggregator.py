"""The learned aggregator of the paper (section 3.4)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..aggregation import Geometry, MergeTarget, RowOutputs
from ..aggregation.alignment import translate
from ..errors import MMDiscardError
from ..registry import AGGREGATORS
from .attention import StateAttention
from .learned_aggregator import LearnedAggregator
from .state_buffer import Layout, StateBuffer


@AGGREGATORS.register_module()
class AttentionAggregator(LearnedAggregator):
    """Merges states by learned attention, with one `StateAttention` per tensor that is merged.

    It needs all states of an image at once, so memory grows with the budget. The result of an image
    with one state is that state, unchanged.

    Args:
        on: ``'features'`` (the paper) or ``'logits'``.
        align: see `Aggregator`.
        init_cfg: see `LearnedAggregator`.
        num_positions: displacements per axis that have an embedding, in units of the first searched
            group's input; None for as many as the searched groups need.

    Raises:
        MMDiscardError: if ``num_positions`` is below 1, or the other settings do not fit together.
    """

    gives_attention = True

    def __init__(
        self,
        on: str = 'features',
        align: str = 'bilinear',
        init_cfg: Mapping[str, Any] | None = None,
        num_positions: int | None = None,
    ) -> None:
        super().__init__(on, align, init_cfg)
        if num_positions is not None and num_positions < 1:
            raise MMDiscardError(f'num_positions has to be at least 1; got {num_positions!r}')
        self.num_positions = num_positions

    def build(self, target: MergeTarget, index: int) -> StateAttention:
        needed = int(_largest_position(target.geometry).max()) + 1
        if self.num_positions is not None and self.num_positions < needed:
            raise MMDiscardError(
                f'displacements of the searched groups reach {needed - 1} units of the first '
                f"group's input, and num_positions={self.num_positions} embeds no more than "
                f'{self.num_positions - 1}; search fewer groups, or train with '
                f'num_positions={needed}'
            )
        if len(target.shapes[index]) not in (1, 3):
            raise MMDiscardError(
                f'output level {index} has shape {target.shapes[index]}, and attention merges maps '
                "(C, h, w) and vectors (C,); use on='logits' with align='none'"
            )
        return StateAttention(target.shapes[index][0], self.num_positions or needed)

    def merge(self, num_images: int, budget: int) -> 'AttentionMerge':
        return AttentionMerge(self, num_images)

    def attend(self, index: int, values: Tensor, layout: Layout) -> Tensor:
        """Merge one of the tensors.

        Args:
            index: of the tensor among those that are merged.
            values: ``(M, ...)``, one entry per row.
            layout: which image and state each row belongs to.

        Returns:
            ``(N, ...)``.
        """
        return self.part(index, values)(*self._arguments(index, values, layout))

    def received(self, index: int, values: Tensor, layout: Layout) -> Tensor:
        """Attention ``(N, P)`` that each state receives, which sums to 1 over states.

        Args:
            index: see `attend`.
            values: see `attend`.
            layout: see `attend`.
        """
        return self.part(index, values).received(*self._arguments(index, values, layout))

    def _arguments(self, index: int, values: Tensor, layout: Layout) -> tuple:
        place = _positions(self.target.geometry, layout.states, self.stage.level(index))
        present = None if layout.present is None else layout.present.to(values.device)
        return layout.by_image(values), place, present


class AttentionMerge:
    """Merges the states of one batch by attention.

    Args:
        aggregator: whose modules to use.
        num_images: ``N``.
    """

    def __init__(self, aggregator: AttentionAggregator, num_images: int) -> None:
        self.aggregator = aggregator
        self._buffer = StateBuffer(num_images, sorted(map(int, aggregator.module)))

    def add(self, outputs: RowOutputs, last_use: bool = False) -> None:
        """Add rows; see `Merge.add`."""
        values = self.aggregator.stage.values(outputs)
        shift = self.aggregator.stage.shift(outputs)
        if shift is not None:
            values = tuple(translate(value, shift) for value in values)
        self._buffer.add(outputs, values)

    def result(self) -> tuple[Tensor, ...]:
        """The merged tensors, each ``(N, ...)``."""
        layout, merged = self._buffer.layout(), self._buffer.means()
        for index in self._buffer.kept:
            values = self._buffer.values(index)
            merged[index] = self._merged(index, values, layout)
        return tuple(merged[index] for index in range(len(merged)))

    @torch.no_grad()
    def attention(self) -> Tensor:
        """Attention that each row so far receives, relative to an equal share among its image's.

        Returns:
            ``(M,)`` float on the CPU in the order in which rows were added, the mean over the
            merged tensors.
        """
        layout = self._buffer.layout()
        received = torch.stack([self._received(index, layout) for index in self._buffer.kept])
        return layout.by_row(received.mean(0) * layout.counts[:, None])

    def _received(self, index: int, layout: Layout) -> Tensor:
        return self.aggregator.received(index, self._buffer.values(index), layout).float().cpu()

    def _merged(self, index: int, values: Tensor, layout: Layout) -> Tensor:
        alone = layout.counts == 1
        first = values[layout.first.to(values.device)]
        if alone.all():
            return first
        merged = self.aggregator.attend(index, values, layout)
        if not alone.any():
            return merged
        alone = alone.view(-1, *[1] * (merged.ndim - 1)).to(merged.device)
        return torch.where(alone, first.to(merged.dtype), merged)


def _largest_position(geometry: Geometry) -> Tensor:
    """Largest displacement ``(2,)`` of any state, in units of the first searched group's input."""
    groups = geometry.space.groups
    last = torch.tensor([[group.num_indices - 1 for group in groups]])
    return _positions(geometry, last, None)[0]


def _positions(geometry: Geometry, states: Tensor, level: int | None) -> Tensor:
    """Displacement of an output level in units of the first searched group's input.

    Args:
        geometry: of the searched groups.
        states: ``(..., G)``.
        level: index of the level; None for the full displacement.

    Returns:
        ``(..., 2)`` long, (dy, dx).
    """
    unit = torch.tensor(geometry.space.groups[0].stride)
    return geometry.space.displacement(states, level) // unit
