"""Aggregation: states become one prediction, as a running mean that the budget does not grow."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..execution import Levels
from ..registry import AGGREGATORS, ALIGNMENTS, lookup
from ..subsampling import Fingerprint
from .alignment import Geometry
from .row_outputs import RowOutputs
from .running_mean import RunningMean

SMALLEST_WEIGHT = 1e-6


class MergeStage:
    """Says what is merged: features before the head, or logits after it."""

    #: whether the head runs on what was merged, rather than for every state
    head_after = False
    #: whether values are made for the outputs, so that nothing else holds them
    fresh = False

    def head_input(self, outputs: RowOutputs) -> Levels:
        """The features that the head reads for a single state."""
        raise NotImplementedError

    def values(self, outputs: RowOutputs) -> tuple[Tensor, ...]:
        """The tensors to average over states, each ``(M, ...)``, before `shift`."""
        raise NotImplementedError

    def shift(self, outputs: RowOutputs) -> Tensor | None:
        """By how many whole cells ``(M, 2)`` values and weights are moved; None for not at all."""
        return None

    def logits(self, merged: tuple[Tensor, ...], head: Callable[[Levels], Tensor]) -> Tensor:
        """Logits of the merged tensors."""
        raise NotImplementedError

    def level(self, index: int) -> int | None:
        """Which output level one of the merged tensors is; None if it comes after all of them."""
        raise NotImplementedError

    def entropy(self, outputs: RowOutputs) -> Tensor:
        """Normalised entropy at the places of the values: ``(M,)`` or ``(M, H, W)``."""
        raise NotImplementedError


class FeatureStage(MergeStage):
    """Merge aligned feature levels; the head then runs once on the result (the paper's way)."""

    head_after = True

    def head_input(self, outputs: RowOutputs) -> Levels:
        return outputs.computed.features

    def values(self, outputs: RowOutputs) -> tuple[Tensor, ...]:
        return outputs.aligned

    def logits(self, merged: tuple[Tensor, ...], head: Callable[[Levels], Tensor]) -> Tensor:
        return head(merged)

    def level(self, index: int) -> int | None:
        return index

    def entropy(self, outputs: RowOutputs) -> Tensor:
        return outputs.entropy


class LogitStage(MergeStage):
    """Run the head for every state and merge what it says."""

    fresh = True

    def head_input(self, outputs: RowOutputs) -> Levels:
        return outputs.aligned

    def values(self, outputs: RowOutputs) -> tuple[Tensor, ...]:
        return (outputs.logits,)

    def shift(self, outputs: RowOutputs) -> Tensor | None:
        return outputs.shift

    def logits(self, merged: tuple[Tensor, ...], head: Callable[[Levels], Tensor]) -> Tensor:
        return merged[0]

    def level(self, index: int) -> int | None:
        return None

    def entropy(self, outputs: RowOutputs) -> Tensor:
        return outputs.entropies


#: the `on` of an aggregator -> what it merges
STAGES = {'features': FeatureStage, 'logits': LogitStage}


@dataclass(frozen=True)
class MergeTarget:
    """What a learned aggregator works on.

    Attributes:
        geometry: of the searched groups.
        shapes: of every tensor that is merged, without the batch: the output levels, or the logits
            alone.
        read: for every tensor, whether the head reads it; others need no parameters.
        fingerprint: of the model.
    """

    geometry: Geometry
    shapes: tuple[tuple[int, ...], ...]
    read: tuple[bool, ...]
    fingerprint: Fingerprint


class Aggregator:
    """Weighs states. Subclasses implement `weights`.

    Args:
        on: ``'features'`` or ``'logits'``, what is merged.
        align: ``'none'``, ``'bilinear'`` or ``'exact'``, how states are brought together first.

    Raises:
        MMDiscardError: if either is unknown, or ``'exact'`` is asked for features.
    """

    #: whether a weight depends on what the model predicts for the row
    needs_prediction = False
    #: whether weights say how sure a prediction is, so that those of other views can be compared
    weighs_confidence = False
    #: whether it says how much attention states receive
    gives_attention = False

    def __init__(self, on: str = 'features', align: str = 'none') -> None:
        self.on = on
        if on not in STAGES:
            raise MMDiscardError(f'unknown `on` {on!r}; choose one of {", ".join(STAGES)}')
        self.stage = STAGES[on]()
        self.alignment = lookup(ALIGNMENTS, align)()
        if self.alignment.in_output_space and on != 'logits':
            raise MMDiscardError(
                f"align={align!r} moves the output maps of a segmentor, so it needs on='logits', "
                f"got on={on!r}; a classifier has no such maps: use align='bilinear' or 'none'"
            )

    def check(self, dense: bool) -> None:
        """Check that a model fits.

        Args:
            dense: whether its logits are maps.

        Raises:
            MMDiscardError: if this aggregator moves the output and the model's is not a map.
        """
        if self.alignment.in_output_space and not dense:
            raise MMDiscardError(
                "align='exact' moves output maps, and a classifier's output is none; use "
                "align='bilinear' or align='none'"
            )

    def prepare(self, describe: Callable[[], MergeTarget]) -> None:
        """Get ready for a model.

        Args:
            describe: gives a `MergeTarget`, what those with parameters are made for.

        Raises:
            MMDiscardError: if the two do not fit.
        """

    def weights(self, outputs: RowOutputs) -> Tensor:
        """Weight of each row, above 0: ``(M,)``, or ``(M, H, W)`` at the places of dense values."""
        raise NotImplementedError

    def merge(self, num_images: int, budget: int) -> 'Merge':
        """Begin a batch.

        Args:
            num_images: ``N``.
            budget: number of states per image at most, at least 2.
        """
        return Merge(self.stage, self.weights, num_images)


def ones(outputs: RowOutputs) -> Tensor:
    """The same weight for every row."""
    return torch.ones(len(outputs.rows), device=outputs.computed.inputs.device)


@AGGREGATORS.register_module()
class AverageAggregator(Aggregator):
    """The plain mean over states."""

    def weights(self, outputs: RowOutputs) -> Tensor:
        return ones(outputs)


@AGGREGATORS.register_module()
class EntropyAggregator(Aggregator):
    """Weight ``1 - H / log K``, normalised over states: confident states count more (the paper).

    On dense logits every pixel has weights of its own.
    """

    needs_prediction = True
    weighs_confidence = True

    def weights(self, outputs: RowOutputs) -> Tensor:
        return (1 - self.stage.entropy(outputs)).clamp(min=SMALLEST_WEIGHT)


class Merge:
    """The running weighted means of one batch.

    Args:
        stage: says what is merged.
        weights: says how much each row counts.
        num_images: ``N``.
    """

    def __init__(
        self, stage: MergeStage, weights: Callable[[RowOutputs], Tensor], num_images: int
    ) -> None:
        self.stage = stage
        self.weights = weights
        self.num_images = num_images
        self._means: list[RunningMean] = []

    def add(self, outputs: RowOutputs, last_use: bool = False) -> None:
        """Take in some rows.

        Args:
            outputs: of those rows.
            last_use: nobody looks at it again, so its tensors may be written to.
        """
        values = self.stage.values(outputs)
        weights = self.weights(outputs)
        shift = self.stage.shift(outputs)
        if not self._means:
            self._means = [RunningMean(self.num_images) for _ in values]
        for run in outputs.rows.runs():
            images = outputs.rows.images[run]
            move = None if shift is None else shift[run]
            for mean, value in zip(self._means, values, strict=True):
                mean.add(images, value[run], weights[run], move, last_use and self.stage.fresh)

    def result(self) -> tuple[Tensor, ...]:
        """The merged tensors, each ``(N, ...)``."""
        return tuple(mean.value for mean in self._means)

    @property
    def total(self) -> Tensor:
        """What the states of each image weigh together, ``(N, 1, ...)``."""
        return self._means[0].total
