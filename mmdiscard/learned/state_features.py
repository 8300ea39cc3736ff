"""States found and computed once, merged as often as one likes: what training an aggregator needs.

The base model is frozen, so its features are computed without gradients, and may come from a cache.
Merging them, and whatever the head does afterwards, is differentiable.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..aggregation import RowOutputs
from ..execution import BackboneOutputs, Levels
from ..models.batch_inference import BatchInference
from ..models.pipeline import Pipeline
from ..search import Rows


@dataclass(frozen=True)
class StateFeatures:
    """The states of a batch.

    Attributes:
        rows: image and state of every row: the first of every image, then the second, and so on,
            as the search found them. So what was computed and what comes from a cache is merged in
            the same order.
        features: per output level ``(M, C, h, w)``, not aligned; zeros for levels that the head
            does not read.
    """

    rows: Rows
    features: Levels


class _CollectingBatch(BatchInference):
    """Keeps what it computes."""

    def __init__(self, pipeline: Pipeline, images: Tensor, keep: Sequence[bool]) -> None:
        super().__init__(pipeline, images)
        self.parts: list[BackboneOutputs] = []
        self._keep = keep
        self._num_computed = 0  # rows of earlier calls

    def compute(self, rows: Rows) -> Iterator[RowOutputs]:
        yield from super().compute(rows)
        self._num_computed += len(rows)

    def outputs(self, computed: BackboneOutputs) -> RowOutputs:
        levels = tuple(
            level if kept else level.new_zeros(()).expand_as(level)
            for level, kept in zip(computed.features, self._keep, strict=True)
        )
        positions = computed.positions + self._num_computed
        self.parts.append(BackboneOutputs(computed.rows, computed.inputs, levels, positions))
        return super().outputs(computed)


@torch.no_grad()
def collect(pipeline: Pipeline, images: Tensor, keep: Sequence[bool]) -> StateFeatures:
    """Search and compute.

    Args:
        pipeline: what searches.
        images: ``(N, 3, H, W)``, preprocessed.
        keep: which output levels are wanted.
    """
    batch = _CollectingBatch(pipeline, images, keep)
    batch.follow(pipeline.search.rounds(len(images), pipeline.space, pipeline.prices))
    images_of = torch.cat([part.rows.images for part in batch.parts])
    states = torch.cat([part.rows.states for part in batch.parts])
    asked = torch.cat([part.positions for part in batch.parts]).argsort()
    order = asked[_by_place(images_of[asked])]
    levels = zip(*(part.features for part in batch.parts), strict=True)
    return StateFeatures(
        Rows(images_of[order], states[order]),
        tuple(
            torch.cat(parts)[order.to(parts[0].device)] if kept else _spread(parts[0], len(order))
            for parts, kept in zip(levels, keep, strict=True)
        ),
    )


def _by_place(images: Tensor) -> Tensor:
    """An order of rows: the first of every image, then the second of every image, and so on."""
    place = torch.empty_like(images)
    seen = torch.zeros(int(images.max()) + 1, dtype=torch.long)
    for row, image in enumerate(images.tolist()):
        place[row] = seen[image]
        seen[image] += 1
    return (place * len(seen) + images).argsort()


def _spread(zero: Tensor, rows: int) -> Tensor:
    """As many rows of a level that is not kept, without memory."""
    return zero[:1].expand(rows, *zero.shape[1:])


def merged(
    pipeline: Pipeline, images: Tensor, collected: StateFeatures, part: int
) -> tuple[Tensor, ...]:
    """Align and merge, with gradients to the aggregator's parameters.

    Args:
        pipeline: what merges.
        images: ``(N, 3, H, W)``, of which heads read the size alone.
        collected: the states.
        part: so many rows go through the head at once, where it runs for every state.

    Returns:
        The merged tensors, each ``(N, ...)``.
    """
    batch = BatchInference(pipeline, images)
    for start in range(0, len(collected.rows), part):
        rows = slice(start, start + part)
        levels = tuple(level[rows] for level in collected.features)
        batch.take(batch.outputs(BackboneOutputs(collected.rows[rows], images, levels)))
    return batch.merged()
