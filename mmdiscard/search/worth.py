"""What a gain is worth when it has a price."""

from typing import TypeVar

import numpy as np

Number = TypeVar('Number', float, np.ndarray)
CHEAPEST = 1e-6


def worth(gain: Number, price: Number) -> Number:
    """Gain per price for a gain, loss times price for a loss; higher is better.

    A quotient alone would prefer the dearer of two equal losses. This way a lower price is never
    worse: it makes more of a gain and less of a loss, and does not matter for a gain of 0.

    Args:
        gain: how much better, in any unit; negative if worse.
        price: in plain forwards, at least 0 (and counted as at least 1e-6).
    """
    price = np.maximum(price, CHEAPEST)
    return np.where(gain > 0, gain / price, gain * price)
