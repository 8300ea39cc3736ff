"""Aggregation by learned attention (the paper, section 3.4)."""

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

    All states of an image are kept until the end, so memory grows with the budget. A single state
    is returned unchanged.

    Args:
        on: ``'features'`` (the paper) or ``'logits'``.
        align: see `Aggregator`.
        init_cfg: see `LearnedAggregator`.
        num_positions: number of displacements per axis that have an embedding, in units of the
            first searched group's input; None for as many as the searched groups need.

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


class AttentionMerge:
    """Merges the states of one batch of ``num_images`` by attention."""

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
            merged[index] = self._merged(index, layout)
        return tuple(merged[index] for index in range(len(merged)))

    @torch.no_grad()
    def attention(self) -> Tensor:
        """Attention that each row so far receives, in units of 1/P if its image has P states.

        Returns:
            ``(M,)`` float on the CPU, in the order in which rows were added; the mean over the
            merged tensors.
        """
        layout = self._buffer.layout()
        received = torch.stack(
            [
                self._module(index).received(*self._states(index, layout)).float().cpu()
                for index in self._buffer.kept
            ]
        )
        return layout.by_row(received.mean(0) * layout.counts[:, None])

    def _module(self, index: int) -> StateAttention:
        return self.aggregator.part(index, self._buffer.values(index))

    def _states(self, index: int, layout: Layout) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, positions and presence of states, as `StateAttention.forward` takes them."""
        values, aggregator = self._buffer.values(index), self.aggregator
        level = aggregator.stage.level(index)
        positions = _positions(aggregator.target.geometry, layout.states, level)
        present = None if layout.present is None else layout.present.to(values.device)
        return layout.by_image(values), positions, present

    def _merged(self, index: int, layout: Layout) -> Tensor:
        values, alone = self._buffer.values(index), layout.counts == 1
        first = values[layout.first.to(values.device)]
        if alone.all():
            return first
        merged = self._module(index)(*self._states(index, layout))
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
    """Displacement ``(..., 2)`` of a level, in units of the first group's input; None for all."""
    unit = torch.tensor(geometry.space.groups[0].stride)
    return geometry.space.displacement(states, level) // unit
