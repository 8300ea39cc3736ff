"""Aggregators: merge the states of an image into one prediction, as a weighted running mean.

Memory does not grow with the number of states.
"""

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
    """The stage at which states are merged: features before the head, or logits after it."""

    #: whether the head runs once, on the merged features, instead of once per state
    head_after = False
    #: whether nothing else refers to the values, so that they may be overwritten
    fresh = False

    def head_input(self, outputs: RowOutputs) -> Levels:
        """The features that the head reads for a single state."""
        raise NotImplementedError

    def values(self, outputs: RowOutputs) -> tuple[Tensor, ...]:
        """The tensors to average over states, each ``(M, ...)``, before `shift`."""
        raise NotImplementedError

    def shift(self, outputs: RowOutputs) -> Tensor | None:
        """Whole cells ``(M, 2)`` to translate values and weights by; None for none."""
        return None

    def logits(self, merged: tuple[Tensor, ...], head: Callable[[Levels], Tensor]) -> Tensor:
        """Logits of the merged tensors; ``head`` turns levels into logits."""
        raise NotImplementedError

    def level(self, index: int) -> int | None:
        """Output level of one of the merged tensors; None for logits."""
        raise NotImplementedError

    def entropy(self, outputs: RowOutputs) -> Tensor:
        """Normalised entropy per row ``(M,)``, or per pixel of the values ``(M, H, W)``."""
        raise NotImplementedError


class FeatureStage(MergeStage):
    """Merges aligned feature levels; the head then runs once on the result, as in the paper."""

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
    """Merges logits; the head runs for every state."""

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
    """The tensors that are merged, as a learned aggregator needs to know them.

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
    """Weighted mean over states. Subclasses implement `weights`.

    Args:
        on: what is merged, ``'features'`` or ``'logits'``.
        align: how states are aligned first: ``'none'``, ``'bilinear'`` or ``'exact'``.

    Raises:
        MMDiscardError: if one is unknown, or ``'exact'`` is asked for features.
    """

    #: whether a weight depends on what the model predicts for the row
    needs_prediction = False
    #: whether weights measure confidence, so that those of different views can be compared
    weighs_confidence = False
    #: whether it measures the attention that states receive
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

    @property
    def adds_states(self) -> bool:
        """Whether the aggregator is a running mean, to which states are added one by one."""
        return type(self).merge is Aggregator.merge

    def check(self, dense: bool) -> None:
        """Check that the aggregator suits a model whose logits are maps (``dense``) or not.

        Raises:
            MMDiscardError: if this aggregator moves output maps, and the model has none.
        """
        if self.alignment.in_output_space and not dense:
            raise MMDiscardError(
                "align='exact' translates output maps, and a classifier has none; use "
                "align='bilinear' or align='none'"
            )

    def prepare(self, describe: Callable[[], MergeTarget]) -> None:
        """Prepare for a model, such as building parameters of its sizes; does nothing by default.

        ``describe`` returns the `MergeTarget` of the model.

        Raises:
            MMDiscardError: if parameters do not fit the model.
        """

    def weights(self, outputs: RowOutputs) -> Tensor:
        """Weight of each row, above 0: ``(M,)``, or ``(M, H, W)`` per pixel of dense values."""
        raise NotImplementedError

    def merge(self, num_images: int, budget: int) -> 'Merge':
        """Begin to merge a batch of images with up to ``budget`` states (at least 2) each."""
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
    """Mean with weights ``1 - H / log K``: confident states count more (the paper).

    On dense logits every pixel has weights of its own.
    """

    needs_prediction = True
    weighs_confidence = True

    def weights(self, outputs: RowOutputs) -> Tensor:
        return (1 - self.stage.entropy(outputs)).clamp(min=SMALLEST_WEIGHT)


class Merge:
    """Running weighted means over the states of a batch.

    Args:
        stage: says what is merged.
        weights: returns the weight of each row, see `Aggregator.weights`.
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
        """Add rows, whose outputs may be overwritten if this is their last use."""
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
        """Sum of the weights of the states of each image, ``(N, 1, ...)``."""
        return self._means[0].total
