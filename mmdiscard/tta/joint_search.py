"""Views and states in competition for one cost budget per image."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

import torch

from ..search.base import Feedback, Rows
from ..search.budget import Prices
from ..search.greedy import ORDERS, GreedySearch
from ..subsampling import StateSpace

State = tuple[int, ...]
#: by view, the rows to compute
Asked = dict[int, Rows]
JointRounds = Generator[Asked, Mapping[int, Feedback], None]
ROUNDING = 1e-9


@dataclass(frozen=True)
class Node:
    """One state in one view, computed.

    Attributes:
        view: of the pipeline.
        state: indices of the groups.
        decided: how many groups are, in the order of the search.
    """

    view: int
    state: State
    decided: int


@dataclass
class Tree:
    """What is known of one image.

    Attributes:
        left: cost that may still be spent.
        counts: by view, how many states.
        open: what could come next, as (score, order of creation, `Node`, whether the next view).
    """

    left: float
    counts: dict[int, int] = field(default_factory=dict)
    open: list[tuple[float, int, Node, bool]] = field(default_factory=list)
    created: int = 0

    def push(self, score: float, node: Node, next_view: bool = False) -> None:
        """Something that could come next."""
        heappush(self.open, (score, self.created, node, next_view))
        self.created += 1


class JointSearch:
    """`GreedySearch` over views and states at once.

    The views are one more decision, taken one at a time and in the order of the pipeline: the first
    view is taken as it is. From then on the best open entry is popped. It is either a state with
    its first undecided group, whose other indices are then computed in the same view, each at the
    price of branching off there; or the default state of the last view, from which the next view
    follows at the price of a forward. Entries have the score of the state they follow from, lower
    is better; ties break by creation order, a state before a view. What cannot be paid for any more
    is passed over; of the indices of a group those are taken, in order, that can be paid.

    Args:
        search: its criterion and order are used; its budget and its gate are not.
        cost: plain forwards per image, over all views and states.
    """

    def __init__(self, search: GreedySearch, cost: float) -> None:
        self.search = search
        self.cost = cost

    def rounds(
        self, num_images: int, num_views: int, space: StateSpace, prices: Prices
    ) -> JointRounds:
        """Yield rows by view, be sent feedback by view, until nothing can be paid for.

        Args:
            num_images: ``N``.
            num_views: of the pipeline.
            space: the states of a view.
            prices: of states; a view costs ``prices.root``.
        """
        columns = list(range(space.num_groups))[ORDERS[self.search.order]]
        sizes = [space.groups[column].num_indices for column in columns]
        branch = [prices.branch(column) for column in columns]
        trees = [Tree(self.cost + ROUNDING) for _ in range(num_images)]
        root = Node(0, (0,) * space.num_groups, 0)
        fresh = {image: [root] for image in range(num_images)}
        for tree in trees:
            tree.left -= prices.root
        while fresh:
            feedback = yield _rows(fresh, columns)
            _learn(trees, fresh, feedback, num_views, len(columns))
            fresh = {
                image: new
                for image, tree in enumerate(trees)
                if (new := _expand(tree, columns, sizes, branch, prices.root))
            }


def _rows(fresh: Mapping[int, list[Node]], columns: list[int]) -> Asked:
    """New nodes by view, each image's first before any image's second."""
    asked = {}
    for view in sorted({node.view for nodes in fresh.values() for node in nodes}):
        images, nodes = zip(*_in_rows(fresh, view), strict=True)
        open_groups = torch.zeros(len(nodes), len(columns), dtype=torch.bool)
        for row, node in enumerate(nodes):
            open_groups[row, columns[node.decided :]] = True
        states = torch.tensor([node.state for node in nodes])
        asked[view] = Rows(torch.tensor(images), states, open_groups)
    return asked


def _in_rows(fresh: Mapping[int, list[Node]], view: int) -> list[tuple[int, Node]]:
    own = {image: [n for n in nodes if n.view == view] for image, nodes in fresh.items()}
    depth = max(map(len, own.values()))
    return [
        (image, nodes[turn])
        for turn in range(depth)
        for image, nodes in sorted(own.items())
        if turn < len(nodes)
    ]


def _learn(
    trees: list[Tree],
    fresh: Mapping[int, list[Node]],
    feedback: Mapping[int, Feedback],
    num_views: int,
    num_groups: int,
) -> None:
    """Enter what was computed as what could be followed up."""
    for view, answer in feedback.items():
        scores = torch.nan_to_num(answer.scores.float(), nan=torch.finfo(torch.float32).max)
        for (image, node), score in zip(_in_rows(fresh, view), scores.tolist(), strict=True):
            tree = trees[image]
            tree.counts[view] = tree.counts.get(view, 0) + 1
            if node.decided < num_groups:
                tree.push(score, node)
            if not any(node.state) and node.decided == 0 and view + 1 < num_views:
                tree.push(score, node, next_view=True)


def _expand(
    tree: Tree, columns: list[int], sizes: list[int], branch: list[float], forward: float
) -> list[Node]:
    """The nodes that follow from the best open entry that can be paid for."""
    while tree.open:
        score, _, node, next_view = heappop(tree.open)
        if next_view:
            new, price = [Node(node.view + 1, node.state, 0)], forward
        else:
            new, price = _children(node, columns, sizes), branch[node.decided]
        new = new[: int(tree.left / max(price, ROUNDING))]
        if not next_view and node.decided + 1 < len(columns):
            tree.push(score, Node(node.view, node.state, node.decided + 1))  # index 0: the same
        if new:
            tree.left -= price * len(new)
            return new
    return []


def _children(node: Node, columns: list[int], sizes: list[int]) -> list[Node]:
    column = columns[node.decided]
    return [
        Node(
            node.view,
            (*node.state[:column], index, *node.state[column + 1 :]),
            node.decided + 1,
        )
        for index in range(1, sizes[node.decided])
    ]
