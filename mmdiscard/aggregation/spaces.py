"""What is merged: feature maps before the head, or logits after it."""

from collections.abc import Callable

from torch import Tensor

from ..execution import Levels
from ..registry import SPACES
from .evaluation import Evaluation


class Space:
    """What of an evaluation is merged."""

    #: whether the head runs on what was merged, rather than for every state
    head_after = False
    #: whether values are made for the evaluation, so that nothing else holds them
    fresh = False

    def head_input(self, evaluation: Evaluation) -> Levels:
        """The features that the head reads for a single state."""
        raise NotImplementedError

    def values(self, evaluation: Evaluation) -> tuple[Tensor, ...]:
        """The tensors to average over states, each ``(M, ...)``, before `shift`."""
        raise NotImplementedError

    def shift(self, evaluation: Evaluation) -> Tensor | None:
        """By how many whole cells ``(M, 2)`` values and weights are moved; None for not at all."""
        return None

    def logits(self, merged: tuple[Tensor, ...], head: Callable[[Levels], Tensor]) -> Tensor:
        """Logits of the merged tensors."""
        raise NotImplementedError

    def level(self, index: int) -> int | None:
        """Which output level one of the merged tensors is; None if it comes after all of them."""
        raise NotImplementedError

    def entropy(self, evaluation: Evaluation) -> Tensor:
        """Normalised entropy at the places of the values: ``(M,)`` or ``(M, H, W)``."""
        raise NotImplementedError


@SPACES.register_module(name='features')
class FeatureSpace(Space):
    """Merge aligned feature levels; the head then runs once on the result (the paper's way)."""

    head_after = True

    def head_input(self, evaluation: Evaluation) -> Levels:
        return evaluation.computed.features

    def values(self, evaluation: Evaluation) -> tuple[Tensor, ...]:
        return evaluation.aligned

    def logits(self, merged: tuple[Tensor, ...], head: Callable[[Levels], Tensor]) -> Tensor:
        return head(merged)

    def level(self, index: int) -> int | None:
        return index

    def entropy(self, evaluation: Evaluation) -> Tensor:
        return evaluation.entropy


@SPACES.register_module(name='logits')
class LogitSpace(Space):
    """Run the head for every state and merge what it says."""

    fresh = True

    def head_input(self, evaluation: Evaluation) -> Levels:
        return evaluation.aligned

    def values(self, evaluation: Evaluation) -> tuple[Tensor, ...]:
        return (evaluation.logits,)

    def shift(self, evaluation: Evaluation) -> Tensor | None:
        return evaluation.shift

    def logits(self, merged: tuple[Tensor, ...], head: Callable[[Levels], Tensor]) -> Tensor:
        return merged[0]

    def level(self, index: int) -> int | None:
        return None

    def entropy(self, evaluation: Evaluation) -> Tensor:
        return evaluation.entropies
