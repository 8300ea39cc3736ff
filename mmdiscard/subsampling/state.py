"""State arithmetic: selection indices, states, displacements (paper, section 3).

A *selection index* ``d`` in ``{0, ..., Ry * Rx - 1}`` names which activation of every ``Ry x Rx``
block a subsampling group keeps, row major: ``d = dy * Rx + dx``. A *state* holds one index per
group. States are integer arrays of shape ``(..., G)`` on the CPU: they steer the computation, they
are never part of it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

import torch
from torch import Tensor

from ..errors import MMDiscardError


@dataclass(frozen=True)
class SubsamplingGroup:
    """Layers that subsample together, so that they always share one selection index.

    Attributes:
        name: what a user calls it: the longest module path that all members share.
        members: module names inside the backbone, in execution order.
        factor: subsampling factor ``(Ry, Rx)``.
        stride: input stride ``(Sy, Sx)``, in image pixels.
        levels: which of the backbone's output feature maps lie behind the group, and so are
            displaced by it.
    """

    name: str
    members: tuple[str, ...]
    factor: tuple[int, int]
    stride: tuple[int, int]
    levels: tuple[int, ...] = ()

    @property
    def num_indices(self) -> int:
        """Number of selection indices: ``Ry * Rx``."""
        return self.factor[0] * self.factor[1]

    @property
    def output_stride(self) -> tuple[int, int]:
        """Stride of what the group puts out, in image pixels."""
        return (self.stride[0] * self.factor[0], self.stride[1] * self.factor[1])


class StateSpace:
    """All states over a sequence of subsampling groups.

    Args:
        groups: the searched groups, in execution order.
    """

    def __init__(self, groups: Sequence[SubsamplingGroup]) -> None:
        self.groups = tuple(groups)

    def __len__(self) -> int:
        """Number of states: the product of all groups' ``Ry * Rx``."""
        return math.prod(group.num_indices for group in self.groups)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """States in lexicographic order: the default state is first, late groups vary first."""
        return product(*(range(group.num_indices) for group in self.groups))

    @property
    def num_groups(self) -> int:
        return len(self.groups)

    def first(self, count: int) -> Tensor:
        """The first ``count`` states in lexicographic order, shape ``(count, G)``."""
        return torch.tensor(list(islice(self, count)), dtype=torch.long).reshape(
            -1, self.num_groups
        )

    def default(self, rows: int) -> Tensor:
        """The all-zero state, ``rows`` times: shape ``(rows, G)``."""
        return torch.zeros(rows, self.num_groups, dtype=torch.long)

    def check(self, states: Tensor) -> Tensor:
        """Return ``states`` as a long CPU tensor of shape ``(..., G)``.

        Raises:
            MMDiscardError: if the number of groups or an index does not fit.
        """
        states = torch.as_tensor(states)
        if states.is_floating_point() or states.ndim < 2 or states.shape[-1] != self.num_groups:
            names = ', '.join(group.name for group in self.groups)
            raise MMDiscardError(
                f'states must be integers of shape (..., {self.num_groups}), one selection index '
                f'for each of the searched groups ({names}); got shape {tuple(states.shape)}'
            )
        states = states.to('cpu', torch.long)
        limits = torch.tensor([group.num_indices for group in self.groups])
        bad = ((states < 0) | (states >= limits)).flatten(0, -2).any(0)
        if bad.any():
            group = self.groups[int(bad.nonzero()[0])]
            raise MMDiscardError(
                f'a state has an index outside 0..{group.num_indices - 1} for group {group.name!r}'
            )
        return states

    def offsets(self, states: Tensor) -> Tensor:
        """``(dy, dx)`` within the block, per group: ``(..., G)`` -> ``(..., G, 2)``."""
        width = torch.tensor([group.factor[1] for group in self.groups])
        return torch.stack([states // width, states % width], dim=-1)

    def displacement(self, states: Tensor, level: int | None = None) -> Tensor:
        """Displacement of the image in pixels: ``(..., G)`` -> ``(..., 2)`` as (dy, dx).

        Args:
            level: count only the groups in front of that output level; all groups if None.
        """
        counted = [
            group.stride if level is None or level in group.levels else (0, 0)
            for group in self.groups
        ]
        strides = torch.tensor(counted).reshape(-1, 2)
        return (self.offsets(states) * strides).sum(-2)

    @property
    def period(self) -> tuple[int, int]:
        """Displacement in pixels after which the sampling grid of the deepest group repeats."""
        strides = [group.output_stride for group in self.groups]
        return max(s[0] for s in strides), max(s[1] for s in strides)
