"""What an aggregator has to know of the model whose states it merges."""

from dataclasses import dataclass

from ..subsampling import Fingerprint
from .geometry import Geometry


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
