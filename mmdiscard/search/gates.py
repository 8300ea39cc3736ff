"""Gates: when an image needs no more states."""

from torch import Tensor

from ..errors import MMDiscardError
from ..registry import GATES
from .criteria import Signals


class Gate:
    """Stops the search of an image once one of its states is confident.

    Args:
        threshold: in 0..1, see the subclass.

    Raises:
        MMDiscardError: if the threshold is outside 0..1.
    """

    def __init__(self, threshold: float) -> None:
        if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise MMDiscardError(f'a gate needs a threshold from 0 to 1; got {threshold!r}')
        self.threshold = threshold

    def confident(self, signals: Signals) -> Tensor:
        """Which rows are confident: ``(M,)`` bool on the CPU."""
        raise NotImplementedError


@GATES.register_module()
class EntropyGate(Gate):
    """Confident is a normalised entropy of at most ``threshold``; for dense outputs the mean."""

    def confident(self, signals: Signals) -> Tensor:
        return (signals.entropy() <= self.threshold).cpu()


@GATES.register_module()
class MarginGate(Gate):
    """Confident is a lead of the first class over the second of at least ``threshold``.

    The lead is a difference of probabilities; for dense outputs the mean over pixels.
    """

    def confident(self, signals: Signals) -> Tensor:
        return (signals.margin() >= self.threshold).cpu()
