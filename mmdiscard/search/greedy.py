"""Greedy best-first search over selection indices (paper, section 3.2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import MMDiscardError
from ..registry import CRITERIA, SEARCHES, build
from ..subsampling import Fingerprint, StateSpace
from .base import Feedback, Rows, Search, SearchRounds
from .budget import Budget, Prices, gain_per_cost

WORST = float(np.finfo(np.float32).max)
ROUNDING = 1e-9
ORDERS = {'shallow_first': slice(None), 'deep_first': slice(None, None, -1)}


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
        budget: number of states per image, ``B``, or what they may cost: ``dict(cost=2.0)`` for at
            most two plain forwards per image. A group that cannot be paid for is passed over.
        criterion: config of a criterion.
        order: which group is decided first: ``'shallow_first'`` (the paper) or ``'deep_first'``,
            where the first states are the cheapest.
        gate: config of a gate.
        per_cost: weigh the criterion by what the next states cost. With the score s of a node, s0
            of the default state, and the price c of a state that branches off at the node's first
            undecided group, the node with the highest ``(s0 - s) / c`` is next; where a node is
            worse than the default state, ``(s0 - s) * c``, so that cheaper is never worse.

    Raises:
        MMDiscardError: if the budget is not a whole number from 1 to the number of states nor a
            cost of at least 1, or the order is unknown.
    """

    def __init__(
        self,
        budget: int | Mapping[str, Any],
        criterion: Mapping[str, Any] | None = None,
        order: str = 'shallow_first',
        gate: Mapping[str, Any] | None = None,
        per_cost: bool = False,
    ) -> None:
        super().__init__(gate)
        if order not in ORDERS:
            raise MMDiscardError(f'unknown order {order!r}; choose one of {", ".join(ORDERS)}')
        self.budget = Budget.parse(budget)
        self.criterion = build(CRITERIA, criterion or dict(type='EntropyCriterion'))
        self.order = order
        self.per_cost = per_cost

    def prepare(self, space: StateSpace, fingerprint: Fingerprint | None = None) -> None:
        super().prepare(space, fingerprint)
        self.budget.check(space)

    def most_states(self, space: StateSpace, prices: Prices) -> int:
        return self.budget.most_states(space, prices)

    def rounds(self, num_images: int, space: StateSpace, prices: Prices) -> SearchRounds:
        columns = range(space.num_groups)[ORDERS[self.order]]
        tree = _Trees(num_images, self.most_states(space, prices), space, columns)
        tree.set_prices(prices, self.budget.cost, self.per_cost)
        roots = np.zeros_like(tree.every)
        tree.learn(tree.every, roots, (yield tree.rows(tree.every, roots)))
        while tree.growing().any():
            images, nodes = tree.expand()
            if len(images):
                tree.learn(images, nodes, (yield tree.rows(images, nodes)))


class _Trees:
    """One tree per image, as arrays: nodes are states, entries are nodes with a group to decide.

    ReentryPoints stand in creation order, so the first of equal scores is the oldest.

    Args:
        num_images: number of trees.
        most: how many states a tree can have.
        space: the states.
        columns: the groups, as columns of a state, in the order in which they are decided.
    """

    def __init__(self, num_images: int, most: int, space: StateSpace, columns: range) -> None:
        self.most = most
        self.columns = np.array(columns)
        self.sizes = np.array([space.groups[column].num_indices for column in columns])
        self.states = np.zeros((num_images, most, len(columns)), dtype=np.int64)
        self.undecided = np.ones((num_images, most, len(columns)), dtype=bool)
        self.scores = np.full((num_images, most), WORST, dtype=np.float32)
        self.count = np.ones(num_images, dtype=np.int64)
        self.finished = np.zeros(num_images, dtype=bool)
        self.left = np.full(num_images, np.inf)  # plain forwards that may still be spent
        self.price = np.zeros(len(columns))  # of a state that branches off at the group
        self.cheapest = np.zeros(len(columns))  # of those that branch off there or later
        self.entry_node = np.zeros((num_images, 1), dtype=np.int64)
        self.entry_group = np.zeros((num_images, 1), dtype=np.int64)
        self.entry_open = np.ones((num_images, 1), dtype=bool)
        self.every = np.arange(num_images)

    def rows(self, images: np.ndarray, nodes: np.ndarray) -> Rows:
        """Nodes as rows; where a tree may still grow, with the groups they have not decided."""
        undecided = self.undecided[images, nodes] & self.growing()[images, None]
        states = torch.from_numpy(self.states[images, nodes])
        return Rows(torch.from_numpy(images), states, torch.from_numpy(undecided))

    def set_prices(self, prices: Prices, cost: float | None, per_cost: bool) -> None:
        """Spend at most ``cost`` plain forwards per image, and mind what the next states cost."""
        self.per_cost = per_cost
        self.price[:] = [prices.branch(int(column)) for column in self.columns]
        self.cheapest[:] = np.minimum.accumulate(self.price[::-1])[::-1]
        if cost is not None:
            self.left[:] = cost - prices.root + ROUNDING

    def learn(self, images: np.ndarray, nodes: np.ndarray, feedback: Feedback) -> None:
        """Take in what became of some nodes."""
        if feedback.scores is not None:
            self.scores[images, nodes] = _finite(feedback.scores)
        if feedback.confident is not None:
            self.finished[images[feedback.confident.numpy()]] = True

    def growing(self) -> np.ndarray:
        """``(N,)`` bool: which images have budget left and something to expand."""
        self.entry_open &= self.cheapest[self.entry_group] <= self.left[:, None]
        return (self.count < self.most) & self.entry_open.any(1) & ~self.finished

    def expand(self) -> tuple[np.ndarray, np.ndarray]:
        """Expand the best entry of every growing image; the new nodes as (images, nodes)."""
        growing, every = self.growing(), self.every
        best = np.where(self.entry_open, self._promise(), -np.inf).argmax(1)
        parent, group = self.entry_node[every, best], self.entry_group[every, best]
        self.entry_open[every, best] &= ~growing

        index = np.arange(1, self.sizes.max())
        affordable = self.left / np.maximum(self.price[group], ROUNDING)
        room = np.minimum(self.most - self.count, affordable.clip(max=self.most).astype(np.int64))
        new = growing[:, None] & (index < self.sizes[group][:, None]) & (index <= room[:, None])
        slot, images = new.T.nonzero()
        nodes = self.count[images] + slot
        self.states[images, nodes] = self.states[images, parent[images]]
        self.states[images, nodes, self.columns[group[images]]] = index[slot]
        later = np.arange(len(self.columns)) > group[images][:, None]
        self.undecided[images, nodes] = later[:, self.columns.argsort()]

        child = np.where(new, self.count[:, None] + index - 1, 0)
        self._push(np.c_[parent, child], group + 1, np.c_[growing, new])
        self.count += new.sum(1)
        self.left -= new.sum(1) * self.price[group]
        return images, nodes

    def _promise(self) -> np.ndarray:
        """``(N, E)``: what an expansion of each entry promises, higher is better."""
        scores = np.take_along_axis(self.scores, self.entry_node, 1)
        if not self.per_cost:
            return -scores
        gain = self.scores[:, :1].astype(np.float64) - scores
        return gain_per_cost(gain, self.price[self.entry_group])

    def _push(self, nodes: np.ndarray, group: np.ndarray, valid: np.ndarray) -> None:
        undecided = (group < len(self.sizes))[:, None]
        self.entry_node = np.c_[self.entry_node, nodes]
        self.entry_open = np.c_[self.entry_open, valid & undecided]
        block = np.broadcast_to(np.minimum(group, len(self.sizes) - 1)[:, None], nodes.shape)
        self.entry_group = np.c_[self.entry_group, block]


def _finite(scores: torch.Tensor) -> np.ndarray:
    """Scores that compare: a broken prediction (NaN) is the worst, not the best."""
    return np.nan_to_num(scores.detach().numpy(), nan=WORST, posinf=WORST)
