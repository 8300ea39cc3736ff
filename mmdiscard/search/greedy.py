"""Greedy best-first search over selection indices (the paper, section 3.2)."""

from collections.abc import Mapping
from typing import Any

from ..errors import MMDiscardError
from ..registry import CRITERIA, SEARCHES, build
from ..subsampling import Fingerprint, StateSpace
from .budget import Budget, Prices
from .interface import Search, SearchRounds
from .tree import SearchTrees

ORDERS = {'shallow_first': slice(None), 'deep_first': slice(None, None, -1)}


@SEARCHES.register_module()
class GreedySearch(Search):
    """Greedy best-first search: grows a tree of states per image, always from the best node.

    The root is the default state with every group undecided. The node with the best score is
    expanded at its first undecided group: index 0 is the node itself and costs nothing, the other
    indices are new states. The search ends at ``budget`` states; of the last expansion only the
    first children in index order are taken. Of equal scores the one created first is expanded. See
    `SearchTrees`.

    All images of a batch are searched together: one round computes the new states of every image,
    at whichever group each of them is.

    Args:
        budget: number of states per image, ``B``, or their cost: ``dict(cost=2.0)`` for at most
            two plain forwards per image. A group that would exceed the budget is skipped.
        criterion: config of a criterion; default `EntropyCriterion`.
        order: which group is decided first: ``'shallow_first'`` (the paper) or ``'deep_first'``,
            where the first states are the cheapest.
        gate: config of a gate, which ends the search of confident images early.
        per_cost: divide the criterion by the cost of the next states. With the score s of a node,
            s0 of the default state, and the cost c of a state that differs from the node at its
            first undecided group, the node with the highest ``(s0 - s) / c`` is next. Where a node
            is worse than the default state, it is ``(s0 - s) * c``, see `gain_per_cost`.

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
        trees = self.trees(num_images, space, self.budget, prices, per_cost=self.per_cost)
        nodes = trees.roots
        while nodes is not None:
            trees.learn(nodes, (yield trees.rows(nodes)))
            nodes = trees.expand()

    def trees(
        self, num_images: int, space: StateSpace, budget: Budget, prices: Prices, **options: Any
    ) -> SearchTrees:
        """Trees that decide the groups in the order of this search.

        Args:
            num_images: ``N``.
            space: the states.
            budget: bound on states and cost per image.
            prices: what states cost.
            options: further arguments of `SearchTrees`.
        """
        columns = range(space.num_groups)[ORDERS[self.order]]
        return SearchTrees(num_images, space, columns, budget, prices, **options)
