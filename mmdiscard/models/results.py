"""Results that an ensemble reports besides its predictions."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SearchResult:
    """Result of the search for one batch.

    Attributes:
        states: ``(N, B, G)`` states of every image, in the order in which they were found. Where
            images used different numbers of states, the rest of a row is -1.
        scores: ``(N, B)`` their scores, lower is better (the rest NaN); None where the search asks
            for none, or has a budget of one state and so nothing to compare.
        counts: ``(N,)`` how many states each image used.
        costs: ``(N,)`` multiply-accumulates of each image, in units of one plain forward.
        bounds: ``(N,)`` the least they could be: every distinct prefix of the states computed once,
            and the head run as often as the aggregator and the criterion ask for.
        size: height and width of the images, as the model saw them.
        weight: ``(N, 1, ...)`` sum of the weights of each image's states; None where weights do
            not say how sure predictions are.
        windows: per image ``[top, left, height, width]`` in pixels of the windows in which states
            other than the default one were computed; None where that is the whole image.
        disagreement: ``(N,)`` or ``(N, H, W)`` of each image's states in bits, see `Disagreement`;
            None unless it is asked for, or where the budget is one state.
    """

    states: Tensor
    scores: Tensor | None
    counts: Tensor
    costs: Tensor
    bounds: Tensor
    size: tuple[int, int]
    weight: Tensor | None = None
    windows: tuple[list[list[int]], ...] | None = None
    disagreement: Tensor | None = None

    @property
    def cost(self) -> float:
        """`costs`, the mean over images."""
        return float(self.costs.mean())

    @property
    def bound(self) -> float:
        """`bounds`, the mean over images."""
        return float(self.bounds.mean())


@dataclass(frozen=True)
class StateOutputs:
    """Outputs of single states, not aligned.

    Attributes:
        features: per output level ``(N, P, C, h, w)``.
        logits: ``(N, P, K)``, or ``(N, P, K, H, W)`` if dense.
    """

    features: tuple[Tensor, ...]
    logits: Tensor
