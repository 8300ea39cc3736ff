"""Best-first search trees over selection indices and views, for all images of a batch at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..subsampling import StateSpace
from .budget import ROUNDING, Budget, Prices, gain_per_cost
from .interface import Feedback, Rows

WORST = float(np.finfo(np.float32).max)
VIEW = 0  # the decision whether to take the next view


@dataclass(frozen=True)
class Nodes:
    """Nodes of search trees: each is a state of one image in one view.

    Attributes:
        images: ``(M,)``, the image whose tree each belongs to.
        positions: ``(M,)``, its position in that tree, in order of creation.
    """

    images: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: np.ndarray) -> 'Nodes':
        return Nodes(self.images[part], self.positions[part])


class SearchTrees:
    """Search trees, one per image: nodes are states, entries are nodes with their next decision.

    The root is the default state of the first view. `expand` takes, in every tree that may still
    grow, the open entry with the best score. Its decision is one of two:

    - the first undecided group of the node. The children are the states with the other indices of
      that group, in index order; the node itself (index 0) becomes an entry for the group after.
    - whether to take the next view. The only child is the default state of that view. The default
      state of every view but the last has this entry beside the one for its first group.

    An entry has the score of its node. Of equal scores the one created first is taken; of the two
    entries of a default state the one for its first group is the older. A tree ends at ``budget``:
    of an expansion only as many children are taken as the budget allows, and decisions that cost
    more than is left are skipped.

    All trees are kept in arrays and grow in step, which for large batches is several times faster
    than one heap per image.

    Args:
        num_images: ``N``.
        space: the states.
        columns: the groups, as columns of a state, in the order in which they are decided.
        budget: bound on states and cost per image, over all views.
        prices: what states cost; the default state of another view costs ``prices.root``.
        per_cost: rank entries by `gain_per_cost` instead of the score alone.
        num_views: number of views.
    """

    def __init__(
        self,
        num_images: int,
        space: StateSpace,
        columns: Sequence[int],
        budget: Budget,
        prices: Prices,
        per_cost: bool = False,
        num_views: int = 1,
    ) -> None:
        self.num_views = num_views
        self.per_cost = per_cost
        self._most = budget.most_states(space, prices, num_views)
        # Per decision, views first: column in `_choices`, number of indices, cost of a child.
        self._columns = np.array([VIEW, *(column + 1 for column in columns)])
        self._sizes = np.array([2, *(space.groups[column].num_indices for column in columns)])
        self._costs = np.array([prices.root, *map(prices.branch, columns)])
        # Cost of the cheapest child that an entry can still lead to.
        self._cheapest = np.minimum.accumulate(self._costs[::-1])[::-1].copy()
        self._cheapest[VIEW] = prices.root

        shape = (num_images, self._most, len(self._columns))
        self._choices = np.zeros(shape, dtype=np.int64)  # of every node: its view, then its state
        self._undecided = np.ones(shape, dtype=bool)
        self._scores = np.full(shape[:2], WORST, dtype=np.float32)
        self._count = np.ones(num_images, dtype=np.int64)
        self._finished = np.zeros(num_images, dtype=bool)
        self._left = np.full(num_images, np.inf)  # plain forwards that may still be spent
        if budget.cost is not None:
            self._left[:] = budget.cost - prices.root + ROUNDING

        decisions = [VIEW + 1, VIEW] if num_views > 1 else [VIEW + 1]
        entries = (num_images, len(decisions))
        self._entry_node = np.zeros(entries, dtype=np.int64)
        self._entry_decision = np.tile(np.array(decisions), (num_images, 1))
        self._entry_open = np.ones(entries, dtype=bool)
        self._every = np.arange(num_images)

    @property
    def roots(self) -> Nodes:
        """The default state of the first view, of every image."""
        return Nodes(self._every, np.zeros_like(self._every))

    def rows(self, nodes: Nodes) -> Rows:
        """Rows of nodes, with the groups that are still undecided as open."""
        at = nodes.images, nodes.positions
        undecided = self._undecided[at][:, 1:] & self._growing()[nodes.images, None]
        return Rows(
            torch.from_numpy(nodes.images),
            torch.from_numpy(self._choices[at][:, 1:]),
            torch.from_numpy(undecided),
        )

    def views(self, nodes: Nodes) -> np.ndarray:
        """View of each node, ``(M,)``."""
        return self._choices[nodes.images, nodes.positions, VIEW]

    def learn(self, nodes: Nodes, feedback: Feedback) -> None:
        """Set the scores of nodes, and finish the images that have a confident one."""
        if feedback.scores is not None:
            self._scores[nodes.images, nodes.positions] = _finite(feedback.scores)
        if feedback.confident is not None:
            self._finished[nodes.images[feedback.confident.numpy()]] = True

    def expand(self) -> Nodes | None:
        """Expand the best entry of every tree that may grow; None when no tree can.

        Returns:
            The new nodes: the first one of each image, then the second of each, and so on.
        """
        while (growing := self._growing()).any():
            nodes = self._expand(growing)
            if len(nodes):
                return nodes
        return None

    def _growing(self) -> np.ndarray:
        """``(N,)`` bool: which images have budget left and something to expand."""
        self._entry_open &= self._cheapest[self._entry_decision] <= self._left[:, None]
        return (self._count < self._most) & self._entry_open.any(1) & ~self._finished

    def _expand(self, growing: np.ndarray) -> Nodes:
        best = np.where(self._entry_open, self._priority(), -np.inf).argmax(1)
        parent, decision = (
            self._entry_node[self._every, best],
            self._entry_decision[self._every, best],
        )
        self._entry_open[self._every, best] &= ~growing

        index = np.arange(1, self._sizes.max())
        affordable = self._left / np.maximum(self._costs[decision], ROUNDING)
        room = np.minimum(
            self._most - self._count, affordable.clip(max=self._most).astype(np.int64)
        )
        new = growing[:, None] & (index < self._sizes[decision][:, None]) & (index <= room[:, None])
        slot, images = new.T.nonzero()
        nodes = self._count[images] + slot
        self._choices[images, nodes] = self._choices[images, parent[images]]
        self._choices[images, nodes, self._columns[decision[images]]] += index[slot]
        later = np.arange(len(self._columns)) > decision[images][:, None]
        self._undecided[images, nodes] = later[:, self._columns.argsort()]

        child = np.where(new, self._count[:, None] + index - 1, 0)
        stays = growing & (decision != VIEW)  # index 0: the same node, its next group
        block = np.hstack([parent[:, None], child])
        self._push(block, decision + 1, np.hstack([stays[:, None], new]))
        if self.num_views > 1:
            first = child[:, :1]
            view = self._choices[self._every, first[:, 0], VIEW]
            more = new[:, 0] & (decision == VIEW) & (view + 1 < self.num_views)
            self._push(first, np.full_like(decision, VIEW), more[:, None])
        self._count += new.sum(1)
        self._left -= new.sum(1) * self._costs[decision]
        return Nodes(images, nodes)

    def _priority(self) -> np.ndarray:
        """Priority of each entry, ``(N, E)``; the highest is expanded next."""
        scores = np.take_along_axis(self._scores, self._entry_node, 1)
        if not self.per_cost:
            return -scores
        gain = self._scores[:, :1].astype(np.float64) - scores
        return gain_per_cost(gain, self._costs[self._entry_decision])

    def _push(self, nodes: np.ndarray, decision: np.ndarray, valid: np.ndarray) -> None:
        last = len(self._sizes) - 1
        decisions = np.broadcast_to(np.minimum(decision, last)[:, None], nodes.shape)
        is_open = valid & (decision <= last)[:, None]
        self._entry_node = np.hstack([self._entry_node, nodes])
        self._entry_decision = np.hstack([self._entry_decision, decisions])
        self._entry_open = np.hstack([self._entry_open, is_open])


def _finite(scores: torch.Tensor) -> np.ndarray:
    """Scores without NaN: a prediction with NaN ranks last."""
    return np.nan_to_num(scores.detach().float().numpy(), nan=WORST, posinf=WORST)
