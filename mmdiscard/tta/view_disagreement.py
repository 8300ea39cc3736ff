"""Disagreement between the views of an image, and between the states within each."""

import torch
from torch import Tensor

from ..aggregation import Disagreement
from ..models.uncertainty import fields_of
from .view_output import ViewOutput


class ViewDisagreement:
    """Disagreement of views and states of one image, in bits; see `Disagreement`.

    The Jensen-Shannon divergence of the views, plus the mean over views of that of their states.
    Where states are averaged as probabilities, this sum is the divergence of all pairs of a view
    and a state.
    """

    def __init__(self, independent: bool = False) -> None:
        self._between = Disagreement(1, independent)
        self._within: Tensor | float = 0.0
        self._count = 0

    def add(self, output: ViewOutput) -> None:
        """Add one view; its sample says how much its states disagree."""
        self._between.add(torch.zeros(1, dtype=torch.long), output.probabilities()[None].float())
        self._within = self._within + fields_of(output.sample)[1]
        self._count += 1

    def result(self) -> Tensor:
        """A number, or ``(H, W)``."""
        return self._between.result()[0] + self._within / self._count
