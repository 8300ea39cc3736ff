"""Criteria: scores that decide which state is expanded next; lower is better."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..registry import CRITERIA
from .interface import Rows


@dataclass(frozen=True)
class Signals:
    """Inputs of criteria and gates, one entry per row; functions compute them on demand.

    Attributes:
        displacement: ``(M, 2)`` displacement (dy, dx) in image pixels.
        image_keys: returns ``(M,)`` long, the same for the same image in any batch or process.
        entropy: returns ``(M,)``, the normalised entropy of the row's prediction in 0..1 (for dense
            outputs its mean over pixels); runs the head if needed.
        margin: returns ``(M,)``, likewise the probability of the first class less that of the
            second.
        attention: returns ``(M,)``, the attention that the row receives among all states of its
            image so far, as a multiple of 1/P for P states; only if ``needs_attention``.
    """

    displacement: Tensor
    image_keys: Callable[[], Tensor]
    entropy: Callable[[], Tensor]
    margin: Callable[[], Tensor]
    attention: Callable[[], Tensor] | None = None


class Criterion:
    """Scores rows, to decide which state is expanded next. Subclasses implement `score`."""

    #: whether a score depends on the features or the prediction of the row
    needs_prediction = False
    #: whether that takes logits, so that the head has to run
    runs_head = True
    #: whether it compares a row with all others so far, by the attention of a learned aggregator
    needs_attention = False

    def score(self, rows: Rows, signals: Signals) -> Tensor:
        """Scores ``(M,)``, lower is better."""
        raise NotImplementedError


@CRITERIA.register_module()
class EntropyCriterion(Criterion):
    """Entropy of the prediction: confident states first (the paper's learning-free one)."""

    needs_prediction = True

    def score(self, rows: Rows, signals: Signals) -> Tensor:
        return signals.entropy().float()


@CRITERIA.register_module()
class DisplacementCriterion(Criterion):
    """Euclidean length of the displacement: near states first, or far ones with ``largest``."""

    def __init__(self, largest: bool = False) -> None:
        self.sign = -1.0 if largest else 1.0

    def score(self, rows: Rows, signals: Signals) -> Tensor:
        return self.sign * signals.displacement.float().norm(dim=-1)


@CRITERIA.register_module()
class RandomCriterion(Criterion):
    """A random number in 0..1 for every image and state.

    It depends only on seed (any whole number), image and state, so a search chooses the same states
    with any batch size, order of images or number of processes.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, rows: Rows, signals: Signals) -> Tensor:
        mixed = _mix(signals.image_keys().numpy().astype(np.uint64) + np.uint64(self.seed % 2**63))
        for column in rows.states.numpy().astype(np.uint64).T:
            mixed = _mix(mixed ^ column)
        return torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) / 2**53).float()


@CRITERIA.register_module()
class AttentionCriterion(Criterion):
    """Inverse of the attention that a state receives from an `AttentionAggregator` (the paper).

    Attention is measured in units of 1/P, for P states so far, so that scores of early and late
    rounds can be compared.

    Args:
        reverse: expand states with little attention first instead.
        random: multiply by a random number in 0..1, as the paper does for training.
        seed: of the random number, see `RandomCriterion`.
    """

    needs_prediction = True
    runs_head = False
    needs_attention = True

    def __init__(self, reverse: bool = False, random: bool = False, seed: int = 0) -> None:
        self.reverse = reverse
        self.random = RandomCriterion(seed) if random else None

    def score(self, rows: Rows, signals: Signals) -> Tensor:
        attention = signals.attention().clamp(min=1e-6)
        scores = attention if self.reverse else 1 / attention
        return scores if self.random is None else scores * self.random.score(rows, signals)


def _mix(x: np.ndarray) -> np.ndarray:
    """One step of the splitmix64 generator, used as a hash."""
    with np.errstate(over='ignore'):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
