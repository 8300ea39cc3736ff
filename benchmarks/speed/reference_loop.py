"""Plain loops: one whole forward per state, or per translated image, merged in a running sum.

What one would write without an engine, and so what the benchmark measures the engine against, in
time and in its outputs: nothing here is shared with `mmdiscard.execution`, and aggregation is
written out again.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmdiscard.aggregation import AverageAggregator, EntropyAggregator
from mmdiscard.aggregation.alignment import BilinearAlignment, ExactAlignment, NoAlignment
from mmdiscard.errors import MMDiscardError
from mmdiscard.models import Ensemble, SearchResult, searched_module
from mmdiscard.subsampling import StateHooks, StateSpace

Levels = tuple[Tensor, ...]
SMALLEST_WEIGHT = 1e-6


class Loop:
    """Merges the states that a search found. Subclasses say what one state gives.

    Args:
        model: with nothing attached; gets an adapter of its own.
        ensemble: whose groups and aggregator are followed.
        found: the states of every image.
    """

    def __init__(self, model: nn.Module, ensemble: Ensemble, found: SearchResult) -> None:
        self.found = found
        self.adapter = type(ensemble.adapter)(model)
        self.hooks = StateHooks(searched_module(model), ensemble.groups)
        self.space = self.hooks.space

    def logits(self, images: Tensor) -> Tensor:
        """Merged logits ``(N, K)`` or ``(N, K, H, W)`` of images ``(N, 3, H, W)``."""
        merged: list[Tensor] = []
        for rows, states in self._slots():
            values, weights = self.state(images[rows], states)
            if not merged:  # every image has a first state
                merged = [torch.zeros_like(value) for value in values]
                total = torch.zeros_like(weights)
            for value, own in zip(merged, values, strict=True):
                value[rows] += _like(weights, own) * own
            total[rows] += weights
        merged = [value / _like(total, value) for value in merged]
        return self.conclude(tuple(merged), images)

    def state(self, images: Tensor, states: Tensor) -> tuple[Levels, Tensor]:
        """What is averaged, ``(m, ...)`` each, and weights ``(m,)`` or ``(m, H, W)``.

        Args:
            images: ``(m, 3, H, W)``.
            states: ``(m, G)``, one for each.
        """
        raise NotImplementedError

    def conclude(self, merged: Levels, images: Tensor) -> Tensor:
        """Logits of what was averaged."""
        return merged[0]

    def head(self, levels: Levels, images: Tensor) -> Tensor:
        """Logits of levels."""
        return self.adapter.head(levels, images, self.adapter.default_context(images))

    def _slots(self) -> Iterator[tuple[slice | Tensor, Tensor]]:
        """The first state of all images, then the second of those that have one, and so on."""
        counts, states = self.found.counts, self.found.states
        for slot in range(states.shape[1]):
            rows = (counts > slot).nonzero().flatten()
            everyone = len(rows) == len(counts)
            yield slice(None) if everyone else rows, states[rows, slot]


class StateLoop(Loop):
    """The states themselves, aligned and weighed as the ensemble's aggregator does.

    Raises:
        MMDiscardError: if the loop does not know that aggregator or its alignment.
    """

    def __init__(self, model: nn.Module, ensemble: Ensemble, found: SearchResult) -> None:
        aggregator = ensemble.aggregator
        for part, known in ((aggregator, MERGED_BY), (aggregator.alignment, ALIGNED_BY)):
            if type(part) not in known:
                raise MMDiscardError(
                    f'the method naive does not know {type(part).__name__}; leave it out of '
                    '--methods'
                )
        super().__init__(model, ensemble, found)
        self.confidence = MERGED_BY[type(aggregator)]
        self.align, self.move_output = ALIGNED_BY[type(aggregator.alignment)]
        self.head_after = aggregator.stage.head_after

    def state(self, images: Tensor, states: Tensor) -> tuple[Levels, Tensor]:
        with self.hooks.select(states):
            levels = self.adapter.features(images)
        aligned = tuple(
            self.align(level, index, self.space, states, images)
            for index, level in enumerate(levels)
        )
        if not self.head_after:
            logits = self.head(aligned, images)
            if self.move_output:
                logits = move_back(logits, self.space.displacement(states), images)
            return (logits,), self.confidence(lambda: logits, images).clamp(min=SMALLEST_WEIGHT)
        weights = self.confidence(lambda: self.head(levels, images), images)
        return aligned, weights.view(len(images), -1).mean(1).clamp(min=SMALLEST_WEIGHT)

    def conclude(self, merged: Levels, images: Tensor) -> Tensor:
        return self.head(merged, images) if self.head_after else merged[0]


class ImageLoop(Loop):
    """The same states in image space: the model runs on translated images, as it is.

    The output is moved back, where it is a map, and averaged.
    """

    def state(self, images: Tensor, states: Tensor) -> tuple[Levels, Tensor]:
        displacement = self.space.displacement(states)
        moved = translate(images, -displacement)
        logits = self.head(self.adapter.features(moved), moved)
        if self.adapter.dense:
            logits = move_back(logits, displacement, images)
        return (logits,), torch.ones(len(images), device=images.device)


# ----------------------------------------------------------------------------- how states merge
def evenly(logits: Callable[[], Tensor], images: Tensor) -> Tensor:
    """The same weight for all, ``(m,)``."""
    return torch.ones(len(images), device=images.device)


def by_entropy(logits: Callable[[], Tensor], images: Tensor) -> Tensor:
    """``1 - H / log K`` of ``(m, K, ...)``: ``(m, ...)``; one channel is a binary decision."""
    scores = logits().float()
    if scores.shape[1] == 1:
        scores = torch.cat([scores, torch.zeros_like(scores)], dim=1)
    p = scores.softmax(1)
    return 1 - torch.special.entr(p).sum(1) / math.log(p.shape[1])


def stay(level: Tensor, index: int, space: StateSpace, states: Tensor, images: Tensor) -> Tensor:
    """A level as it is."""
    return level


def blend(level: Tensor, index: int, space: StateSpace, states: Tensor, images: Tensor) -> Tensor:
    """The paper's alignment: two taps per axis, zeros outside.

    Args:
        level: ``(m, C, h, w)``.
        index: of the level among the outputs of the backbone.
        space: of the states.
        states: ``(m, G)``.
        images: ``(m, 3, H, W)``.
    """
    carrying = [group for group in space.groups if index in group.levels]
    if level.ndim != 4 or not carrying:
        return level
    fraction = space.displacement(states, index) / torch.tensor(carrying[-1].output_stride)
    for axis in (0, 1):
        t = fraction[:, axis].to(level).view(-1, 1, 1, 1)
        before = F.pad(level, (0, 0, 1, 0) if axis == 0 else (1, 0, 0, 0))
        before = before.narrow(2 + axis, 0, level.shape[2 + axis])
        level = (1 - t) * level + t * before
    return level


def meet(level: Tensor, index: int, space: StateSpace, states: Tensor, images: Tensor) -> Tensor:
    """A shallow level, moved by whole cells to where the deepest one is.

    Args:
        level: ``(m, C, h, w)``.
        index: of the level among the outputs of the backbone.
        space: of the states.
        states: ``(m, G)``.
        images: ``(m, 3, H, W)``.
    """
    if level.ndim != 4:
        return level
    return move_back(level, space.displacement(states, index) - space.displacement(states), images)


MERGED_BY = {AverageAggregator: evenly, EntropyAggregator: by_entropy}
ALIGNED_BY = {  # how a level moves, and whether the output moves back
    NoAlignment: (stay, False),
    BilinearAlignment: (blend, False),
    ExactAlignment: (meet, True),
}


# ------------------------------------------------------------------------------------- movement
def move_back(maps: Tensor, displacement: Tensor, images: Tensor) -> Tensor:
    """Move maps ``(m, C, h, w)`` by ``(m, 2)`` pixels of the image, rounded to whole cells.

    Args:
        maps: ``(m, C, h, w)``.
        displacement: ``(m, 2)``, in image pixels.
        images: ``(m, 3, H, W)``.
    """
    sizes = zip(maps.shape[2:], images.shape[2:], strict=True)
    zoom = torch.tensor([own / full for own, full in sizes])
    return translate(maps, (displacement * zoom).round().long())


def translate(maps: Tensor, cells: Tensor) -> Tensor:
    """Move each row's content by whole cells ``(m, 2)``, edges replicated."""
    if not cells.any():
        return maps
    if (cells == cells[0]).all():
        return _translate(maps, *cells[0].tolist())
    rows = zip(maps.split(1), cells.tolist(), strict=True)
    return torch.cat([_translate(row, *cell) for row, cell in rows])


def _translate(maps: Tensor, dy: int, dx: int) -> Tensor:
    height, width = maps.shape[2:]
    y = (torch.arange(height, device=maps.device) - dy).clamp(0, height - 1)
    x = (torch.arange(width, device=maps.device) - dx).clamp(0, width - 1)
    return maps.index_select(2, y).index_select(3, x)


def _like(weights: Tensor, values: Tensor) -> Tensor:
    """``(m,)`` or ``(m, H, W)`` so that it multiplies ``(m, C, ...)``."""
    if weights.ndim == 1:
        return weights.view(-1, *[1] * (values.ndim - 1))
    return weights.unsqueeze(1)
