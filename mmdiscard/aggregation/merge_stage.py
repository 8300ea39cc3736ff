"""What is merged: feature maps before the head, or logits after it."""

from collections.abc import Callable

from torch import Tensor

from ..execution import Levels
from .row_outputs import RowOutputs


class MergeStage:
    """What of an outputs is merged."""

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
