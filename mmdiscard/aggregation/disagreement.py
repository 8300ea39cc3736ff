"""Disagreement of several predictions of one image: their Jensen-Shannon divergence."""

import math

import torch
from torch import Tensor

from .row_outputs import RowOutputs
from .running_mean import RunningMean


class Disagreement:
    """Jensen-Shannon divergence of the predictions of each image, in bits.

    The entropy of the mean prediction less the mean of the entropies, where every prediction counts
    the same (Lin, Divergence measures based on the Shannon entropy, 1991). Of an ensemble it is the
    mutual information of prediction and member (Houlsby et al., arXiv 1112.5745). It is 0 where all
    agree, 1 where two exclude one another, and log2(n) at most for n predictions. Of
    ``independent`` classes (sigmoid) it is the mean over classes.

    Only two running means are kept, of probabilities and of entropies.
    """

    def __init__(self, num_images: int, independent: bool = False) -> None:
        self._independent = independent
        self._probabilities = RunningMean(num_images)
        self._entropies = RunningMean(num_images)

    def add_rows(self, outputs: RowOutputs) -> None:
        """Add the prediction of each row, aligned."""
        probabilities = probabilities_of(outputs.prediction, self._independent)
        for run in outputs.rows.runs():
            shift = None if outputs.shift is None else outputs.shift[run]
            self.add(outputs.rows.images[run], probabilities[run], shift, writable=True)

    def add(
        self,
        images: Tensor,
        probabilities: Tensor,
        shift: Tensor | None = None,
        writable: bool = False,
    ) -> None:
        """Add one prediction for each of ``images``, which are distinct.

        Args:
            images: ``(m,)`` long.
            probabilities: ``(m, K)`` or ``(m, K, H, W)``; a single channel is a binary decision.
            shift: ``(m, 2)`` long, by which predictions are moved first; None for not at all.
            writable: whether the probabilities may be overwritten.
        """
        entropies = entropy_in_bits(probabilities, self._independent).unsqueeze(1)
        ones = torch.ones(2, len(images), device=probabilities.device)
        self._entropies.add(images, entropies, ones[0], shift, writable=True)
        self._probabilities.add(images, probabilities, ones[1], shift, writable)

    def result(self) -> Tensor:
        """``(N,)``, or ``(N, H, W)`` if dense."""
        entropy = entropy_in_bits(self._probabilities.value, self._independent)
        return (entropy - self._entropies.value.squeeze(1)).clamp_(min=0)


def probabilities_of(logits: Tensor, independent: bool = False) -> Tensor:
    """Probabilities of logits ``(M, K, ...)``; a single channel is that of a binary decision."""
    logits = logits.float()
    return logits.sigmoid() if independent or logits.shape[1] == 1 else logits.softmax(1)


def entropy_in_bits(probabilities: Tensor, independent: bool = False) -> Tensor:
    """`entropy_in_nats` in bits."""
    return entropy_in_nats(probabilities, independent) / math.log(2)


def entropy_in_nats(probabilities: Tensor, independent: bool = False) -> Tensor:
    """Entropy over classes: ``(M, K, ...)`` -> ``(M, ...)``.

    A single channel is a binary decision, and so is each of ``independent`` classes: then the mean
    over classes.
    """
    entropy = torch.special.entr(probabilities)
    if independent or probabilities.shape[1] == 1:
        return (entropy + torch.special.entr(1 - probabilities)).mean(1)
    return entropy.sum(1)
