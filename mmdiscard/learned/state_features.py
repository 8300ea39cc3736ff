"""Features of states: computed by the frozen model, and merged in every training step.

They are computed without gradients, and later epochs may read them from a cache. Merging, and the
head that runs on the result, are differentiable.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..execution import BackboneOutputs, Levels
from ..models.batch_inference import BatchInference
from ..models.pipeline import Pipeline
from ..search import Rows
from ..subsampling.backbone import inference_mode
from .state_buffer import rank_in_image


@dataclass(frozen=True)
class StateFeatures:
    """States of a batch and their features.

    Attributes:
        rows: image and state of every row: the first state of every image in the order of the
            search, then the second of every image, and so on.
        features: per output level ``(M, C, h, w)``, not aligned. Levels that are not kept are zeros
            of stride 0, which take no memory.
    """

    rows: Rows
    features: Levels


class _RecordingExecutor:
    """Records the features that another executor computes, of the levels to keep, for one batch."""

    def __init__(self, executor: Any, keep: Sequence[bool]) -> None:
        self.parts: list[BackboneOutputs] = []
        self._executor = executor
        self._keep = keep

    def start(self, images: Tensor) -> '_RecordingExecutor':
        self._run = self._executor.start(images)
        self._asked = 0  # rows in earlier calls
        return self

    @property
    def costs(self) -> Tensor:
        return self._run.costs

    def compute(self, rows: Rows) -> Iterator[BackboneOutputs]:
        """Yield the rows in parts, as the other executor does."""
        for part in self._run.compute(rows):
            levels = tuple(
                level if kept else level.new_zeros(()).expand_as(level)
                for level, kept in zip(part.features, self._keep, strict=True)
            )
            positions = part.positions + self._asked
            self.parts.append(replace(part, features=levels, positions=positions))
            yield part
        self._asked += len(rows)


def levels_read(pipeline: Pipeline, images: Tensor) -> tuple[bool, ...]:
    """For every output level, whether the head reads it, found by a run on ``images``."""
    adapter = pipeline.adapter
    with inference_mode(adapter.model):
        inputs = adapter.backbone_input(images, adapter.default_context(images))
        levels = adapter.features(inputs)
    return adapter.levels_read(levels, images)


@torch.no_grad()
def compute_state_features(
    pipeline: Pipeline, images: Tensor, keep: Sequence[bool]
) -> StateFeatures:
    """Search the states of a batch and return their features.

    Args:
        pipeline: has the search and the model.
        images: ``(N, 3, H, W)``, preprocessed.
        keep: for every output level, whether to keep it.
    """
    recorder = _RecordingExecutor(pipeline.executor, keep)
    batch = BatchInference(replace(pipeline, executor=recorder), images)
    batch.follow(pipeline.search.rounds(len(images), pipeline.space, pipeline.prices))
    parts = recorder.parts
    images_of = torch.cat([part.rows.images for part in parts])
    states = torch.cat([part.rows.states for part in parts])
    asked = torch.cat([part.positions for part in parts]).argsort()
    order = asked[by_rank(images_of[asked])]
    levels = joined([part.features for part in parts], order)
    return StateFeatures(Rows(images_of[order], states[order]), levels)


def merge_state_features(
    pipeline: Pipeline, images: Tensor, found: StateFeatures, rows_at_once: int
) -> tuple[Tensor, ...]:
    """Align and merge features, with gradients for the parameters of the aggregator.

    Args:
        pipeline: has the aggregator and the head.
        images: ``(N, 3, H, W)``; heads read only their size.
        found: the states and features.
        rows_at_once: number of rows that go through the head together, if it runs per state.

    Returns:
        The merged tensors, each ``(N, ...)``.
    """
    batch = BatchInference(pipeline, images)
    for start in range(0, len(found.rows), rows_at_once):
        part = slice(start, start + rows_at_once)
        levels = tuple(level[part] for level in found.features)
        batch.take(batch.outputs(BackboneOutputs(found.rows[part], images, levels)))
    return batch.merged()


def joined(parts: Sequence[Levels], order: Tensor) -> Levels:
    """Rows of several parts in one tensor per level, in the given order."""
    return tuple(_joined(level, order) for level in zip(*parts, strict=True))


def _joined(parts: tuple[Tensor, ...], order: Tensor) -> Tensor:
    if is_kept(parts[0]):
        return torch.cat(parts)[order.to(parts[0].device)]
    return parts[0][:1].expand(len(order), *parts[0].shape[1:])


def is_kept(level: Tensor) -> bool:
    """Whether a level holds features, see `StateFeatures`."""
    return any(level.stride())


def by_rank(images: Tensor) -> Tensor:
    """Order of rows: the first row of every image, then the second of every image, and so on."""
    return (rank_in_image(images) * (images.max() + 1) + images).argsort()
