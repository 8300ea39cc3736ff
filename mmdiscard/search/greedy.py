"""Greedy best-first search over selection indices (paper, section 3.2)."""

import numpy as np
import torch

from ..registry import CRITERIA, SEARCHES, build
from ..subsampling import StateSpace
from .base import Rows, Search, SearchRounds, check_budget, same_for_all

WORST = float(np.finfo(np.float32).max)


@SEARCHES.register_module()
class GreedySearch(Search):
    """Grow a tree of states per image, always from the best node.

    The root is the default state with every group undecided. The best open node is popped and its
    first undecided group decided: index 0 is the node itself and costs nothing, the other indices
    are new states. It ends at ``budget`` states; the last expansion takes its children in index
    order and only as many as the budget leaves. Ties break by creation order.

    The trees of all images of a batch grow in step: one round evaluates the children of every
    image, whichever group they are at.

    Args:
        budget: number of states per image, ``B``.
        criterion: config of a criterion.

    Raises:
        MMDiscardError: if the budget is not a whole number from 1 to the number of states.
    """

    def __init__(self, budget: int, criterion: dict | None = None) -> None:
        self.budget = check_budget(budget)
        self.criterion = build(CRITERIA, criterion or dict(type='EntropyCriterion'))

    def prepare(self, space: StateSpace) -> None:
        check_budget(self.budget, space)

    def budget_for(self, space: StateSpace) -> int:
        return self.budget

    def rounds(self, num_images: int, space: StateSpace) -> SearchRounds:
        tree = _Trees(num_images, self.budget, space)
        tree.scores[:, 0] = _finite((yield same_for_all(space.default(1), num_images)))
        while tree.growing().any():
            images, nodes = tree.expand()
            if len(images):
                rows = Rows(torch.from_numpy(images), torch.from_numpy(tree.states[images, nodes]))
                tree.scores[images, nodes] = _finite((yield rows))


class _Trees:
    """One tree per image, as arrays: nodes are states, entries are nodes with a group to decide.

    Entries stand in creation order, so the first of equal scores is the oldest.
    """

    def __init__(self, num_images: int, budget: int, space: StateSpace) -> None:
        self.budget = budget
        self.sizes = np.array([group.num_indices for group in space.groups])
        self.states = np.zeros((num_images, budget, len(self.sizes)), dtype=np.int64)
        self.scores = np.full((num_images, budget), WORST, dtype=np.float32)
        self.count = np.ones(num_images, dtype=np.int64)
        self.entry_node = np.zeros((num_images, 1), dtype=np.int64)
        self.entry_group = np.zeros((num_images, 1), dtype=np.int64)
        self.entry_open = np.ones((num_images, 1), dtype=bool)
        self._every = np.arange(num_images)

    def growing(self) -> np.ndarray:
        """``(N,)`` bool: which images have budget left and something to expand."""
        return (self.count < self.budget) & self.entry_open.any(1)

    def expand(self) -> tuple[np.ndarray, np.ndarray]:
        """Expand the best entry of every growing image; the new nodes as (images, nodes)."""
        growing, every = self.growing(), self._every
        scores = np.take_along_axis(self.scores, self.entry_node, 1)
        best = np.where(self.entry_open, scores, np.inf).argmin(1)
        parent, group = self.entry_node[every, best], self.entry_group[every, best]
        self.entry_open[every, best] &= ~growing

        index = np.arange(1, self.sizes.max())
        room = self.budget - self.count
        new = growing[:, None] & (index < self.sizes[group][:, None]) & (index <= room[:, None])
        slot, images = new.T.nonzero()
        nodes = self.count[images] + slot
        self.states[images, nodes] = self.states[images, parent[images]]
        self.states[images, nodes, group[images]] = index[slot]

        child = np.where(new, self.count[:, None] + index - 1, 0)
        self._push(np.c_[parent, child], group + 1, np.c_[growing, new])
        self.count += new.sum(1)
        return images, nodes

    def _push(self, nodes: np.ndarray, group: np.ndarray, valid: np.ndarray) -> None:
        undecided = (group < len(self.sizes))[:, None]
        self.entry_node = np.c_[self.entry_node, nodes]
        self.entry_open = np.c_[self.entry_open, valid & undecided]
        block = np.broadcast_to(np.minimum(group, len(self.sizes) - 1)[:, None], nodes.shape)
        self.entry_group = np.c_[self.entry_group, block]


def _finite(scores: torch.Tensor) -> np.ndarray:
    """Scores that compare: a broken prediction (NaN) is the worst, not the best."""
    return np.nan_to_num(scores.numpy(), nan=WORST, posinf=WORST)
