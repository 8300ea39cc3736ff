"""Cache of group inputs, keyed by image and state prefix, which later states start from."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

State = tuple[int, ...]
PrefixKey = tuple[
    int, int, State
]  # image of the batch, column of a group, indices of the groups before


@dataclass(eq=False)
class CachedPrefix:
    """Inputs of one group, recorded in one forward.

    Attributes:
        inputs: by member name, what the layers of the group receive, ``(M, C, H, W)`` each.
        levels: by index, output levels ``(M, C, h, w)`` that do not lie behind the group.
        saves: what a row that begins here need not compute, in plain forwards.
        spots: which rows are still wanted.
    """

    inputs: dict[str, Tensor]
    levels: dict[int, Tensor]
    saves: float
    spots: set[PrefixKey]

    @property
    def bytes(self) -> int:
        tensors = [*self.inputs.values(), *self.levels.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def saved_per_byte(self) -> float:
        """Computation saved per byte."""
        return self.saves * len(self.spots) / max(self.bytes, 1)


class PrefixCache:
    """Looks up the rows that a state can start from, within a limit in bytes.

    Over the limit, the slab that saves the least per byte goes first.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._rows: dict[PrefixKey, tuple[CachedPrefix, int]] = {}
        self._slabs: list[CachedPrefix] = []

    def __contains__(self, spot: PrefixKey) -> bool:
        return spot in self._rows

    def __getitem__(self, spot: PrefixKey) -> tuple[CachedPrefix, int]:
        return self._rows[spot]

    def add(self, slab: CachedPrefix, spots: Sequence[PrefixKey]) -> None:
        """Add recorded inputs whose rows are keyed by ``spots``."""
        self._slabs.append(slab)
        self._rows.update({spot: (slab, row) for row, spot in enumerate(spots)})
        while sum(kept.bytes for kept in self._slabs) > self.max_bytes:
            for spot in list(min(self._slabs, key=lambda kept: kept.saved_per_byte).spots):
                self.drop(spot)

    def drop(self, spot: PrefixKey) -> None:
        """Remove a row; the tensors are freed with the last one."""
        slab, _ = self._rows.pop(spot)
        slab.spots.discard(spot)
        if not slab.spots:
            self._slabs.remove(slab)
