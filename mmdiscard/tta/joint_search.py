"""Greedy search over views and states together, with one cost per image."""

from collections.abc import Generator, Mapping

import torch

from ..search import Feedback, Rows
from ..search.budget import Budget, Prices
from ..search.greedy import GreedySearch
from ..subsampling import StateSpace

JointRounds = Generator[dict[int, Rows], Mapping[int, Feedback], None]


class JointSearch:
    """`GreedySearch` over the views of a pipeline and the states in each of them.

    Views are taken in the order of the pipeline. To take the next view is a further decision of the
    search tree: it costs a plain forward, and has the score of the default state of the last view
    that was taken. See `SearchTrees`. Criterion and order are those of ``search``; its budget, gate
    and ``per_cost`` are not used. ``cost`` is in plain forwards per image.
    """

    def __init__(self, search: GreedySearch, cost: float) -> None:
        self.search = search
        self.cost = cost

    def rounds(
        self, num_images: int, num_views: int, space: StateSpace, prices: Prices
    ) -> JointRounds:
        """Yield rows by view and be sent feedback by view, until the cost is spent.

        Args:
            num_images: ``N``.
            num_views: of the pipeline.
            space: the states of a view.
            prices: of states; a view costs ``prices.root``.
        """
        budget = Budget(cost=self.cost)
        trees = self.search.trees(num_images, space, budget, prices, num_views=num_views)
        nodes = trees.roots
        while nodes is not None:
            rows, views = trees.rows(nodes), torch.from_numpy(trees.views(nodes))
            own = {view: views == view for view in views.unique().tolist()}
            feedback = yield {view: rows[part] for view, part in own.items()}
            for view, part in own.items():
                trees.learn(nodes[part.numpy()], Feedback(feedback[view].scores))
            nodes = trees.expand()
