"""Aggregation with learned weights by phase, the position of a pixel in a cell of a state."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..aggregation import MergeStage, MergeTarget, RowOutputs
from ..aggregation.aggregators import Merge
from ..aggregation.alignment import translate
from ..errors import MMDiscardError
from ..registry import AGGREGATORS
from .learned_aggregator import LearnedAggregator


class PhaseWeights(nn.Module):
    """Parameters of a `PhaseAggregator`: ``period`` is the size of a cell of the sampling grid.

    Attributes:
        table: ``(Py, Px)``, logarithm of the weight of a pixel, by position in its cell.
        offset: ``(K,)``, added to the merged logits.
    """

    def __init__(self, period: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(period))
        self.offset = nn.Parameter(torch.zeros(num_classes))

    def weights(self, size: tuple[int, int]) -> Tensor:
        """Weights ``(H, W)`` of a state's logits before they are aligned."""
        rows, columns = (torch.arange(n) % p for n, p in zip(size, self.table.shape, strict=True))
        return self.table.exp()[rows[:, None], columns]


@AGGREGATORS.register_module()
class PhaseAggregator(LearnedAggregator):
    """Weighted mean of exactly aligned logits plus an offset per class, for dense prediction.

    Every state samples the image on its own grid of cells of S x S pixels, and its logits may be
    more reliable near the centre of a cell than near its corners. The weight of a state at a pixel
    depends only on the position of the pixel in its cell (the phase). All states share one table of
    S x S weights, so any number of states can be merged, as a running mean. The offset is added to
    the merged logits of images with more than one state.

    Args:
        on: only ``'logits'``.
        align: only ``'exact'``.
        init_cfg: see `LearnedAggregator`.
        phase: whether weights are learned; otherwise all are equal.
        offset: whether offsets are learned; otherwise they are zero.

    Raises:
        MMDiscardError: if the settings do not fit together, or nothing is learned.
    """

    def __init__(
        self,
        on: str = 'logits',
        align: str = 'exact',
        init_cfg: Mapping[str, Any] | None = None,
        phase: bool = True,
        offset: bool = True,
    ) -> None:
        super().__init__(on, align, init_cfg)
        if not self.alignment.in_output_space:
            raise MMDiscardError(
                "PhaseAggregator weighs pixels of exactly aligned logits: use align='exact' with "
                f"on='logits', not align={align!r}"
            )
        if not (phase or offset):
            raise MMDiscardError('PhaseAggregator has nothing to learn: phase and offset are off')
        self.phase, self.offset = phase, offset

    def build(self, target: MergeTarget, index: int) -> PhaseWeights:
        module = PhaseWeights(target.geometry.space.period, target.shapes[index][0])
        module.table.requires_grad_(self.phase)
        module.offset.requires_grad_(self.offset)
        return module

    def weights(self, outputs: RowOutputs) -> Tensor:
        logits = outputs.logits
        weights = self.part(0, logits).weights(logits.shape[2:])
        return weights.expand(len(logits), *weights.shape)

    def merge(self, num_images: int, budget: int) -> Any:
        if torch.is_grad_enabled() and self.module.training:
            return _OffsetMerge(self, _DifferentiableMerge(self.stage, self.weights, num_images))
        return _OffsetMerge(self, Merge(self.stage, self.weights, num_images))


class _OffsetMerge:
    """Adds the offset of each class to the merged logits of images with more than one state."""

    def __init__(self, aggregator: PhaseAggregator, merge: Any) -> None:
        self.aggregator = aggregator
        self.merge = merge
        self._counts: list[Tensor] = []

    def add(self, outputs: RowOutputs, last_use: bool = False) -> None:
        """Add rows; see `Merge.add`."""
        self._counts.append(outputs.rows.images)
        self.merge.add(outputs)

    def result(self) -> tuple[Tensor, ...]:
        """The merged logits ``(N, K, H, W)``."""
        (mean,) = self.merge.result()
        several = torch.cat(self._counts).bincount(minlength=len(mean)) > 1
        offset = self.aggregator.part(0, mean).offset.to(mean.dtype)
        return (mean + several.to(mean)[:, None, None, None] * offset[:, None, None],)


class _DifferentiableMerge:
    """Weighted mean as `Merge` computes it, but without in-place operations, for gradients."""

    def __init__(self, stage: MergeStage, weights: Any, num_images: int) -> None:
        self.stage, self.weights, self.num_images = stage, weights, num_images
        self._sum: Tensor | float = 0.0
        self._total: Tensor | float = 0.0

    def add(self, outputs: RowOutputs, last_use: bool = False) -> None:
        """Add rows; see `Merge.add`."""
        (values,) = self.stage.values(outputs)
        weights = self.weights(outputs)[:, None].contiguous()
        shift = self.stage.shift(outputs)
        values, weights = translate(values, shift), translate(weights, shift)
        images = outputs.rows.images.to(values.device)
        self._sum = self._sum + _scattered(values * weights, images, self.num_images)
        self._total = self._total + _scattered(weights, images, self.num_images)

    def result(self) -> tuple[Tensor, ...]:
        """The merged logits ``(N, K, H, W)``."""
        return (self._sum / self._total,)


def _scattered(values: Tensor, images: Tensor, num_images: int) -> Tensor:
    """Sums ``(N, ...)`` of ``(M, ...)`` by image."""
    return values.new_zeros(num_images, *values.shape[1:]).index_add(0, images, values)
