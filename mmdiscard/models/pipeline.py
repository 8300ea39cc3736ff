"""The parts of a prediction, from images to merged logits."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..aggregation import Aggregator, Disagreement, Geometry, Merge, RowOutputs
from ..aggregation.aggregators import ones
from ..aggregation.row_outputs import Head
from ..errors import MMDiscardError
from ..execution import BackboneOutputs, CostModel, Levels, PrefixExecutor
from ..search import Feedback, Prices, Rows, Search, Signals
from ..subsampling import StateSpace
from .adapters import ModelAdapter


@dataclass(frozen=True)
class Pipeline:
    """The parts that predict, and what follows from their combination.

    A prediction of one state and one view has nothing to compare or to weigh: it is neither scored
    nor gated nor weighted. That is decided here, once.

    Attributes:
        adapter: of the model.
        executor: computes states.
        search: chooses states.
        aggregator: merges them.
        geometry: where the cells of the output levels lie.
        cost_model: what the parts of the model cost.
        uncertainty: whether to measure how much the states of an image disagree.
        mirrors: whether the second look at windows is at their mirror images.

    Raises:
        MMDiscardError: if the search looks at attention and the aggregator has none.
    """

    adapter: ModelAdapter
    executor: PrefixExecutor
    search: Search
    aggregator: Aggregator
    geometry: Geometry
    cost_model: CostModel
    uncertainty: bool = False
    mirrors: bool = False

    def __post_init__(self) -> None:
        criterion = self.search.criterion
        wanted = criterion is not None and criterion.needs_attention
        if wanted and not self.aggregator.gives_attention:
            raise MMDiscardError(
                f'{type(criterion).__name__} scores states by the attention of the aggregator, and '
                f'{type(self.aggregator).__name__} has none; use AttentionAggregator, or another '
                'criterion'
            )

    @property
    def space(self) -> StateSpace:
        return self.geometry.space

    @cached_property
    def prices(self) -> Prices:
        """Prices of states with this search and aggregator, in plain forwards."""
        looks = self.search.runs_head or self.aggregator.needs_prediction or self.uncertainty
        judged = self._prices(looks)
        one = self.search.most_states(self.space, judged) == 1 and not self.mirrors
        return self._prices(False) if one else judged

    @cached_property
    def budget(self) -> int:
        """Number of states per image at most, ``B``."""
        return self.search.most_states(self.space, self.prices)

    @property
    def known_states(self) -> Tensor:
        """``(B, G)`` states of a search that has the same for all images."""
        return self.search.states_in(self.space, self.prices)

    @property
    def merges(self) -> bool:
        """Whether an image may have more than one prediction."""
        return self.budget > 1 or self.mirrors

    @property
    def needs_prediction(self) -> bool:
        """Whether the next round of the search depends on predictions for this one."""
        return self.merges and self.search.needs_prediction

    @property
    def weighs_confidence(self) -> bool:
        """Whether the weights of states say how sure their predictions are."""
        return self.merges and self.aggregator.weighs_confidence

    @property
    def compares_attention(self) -> bool:
        """Whether a state is scored by the attention that it receives among all so far."""
        criterion = self.search.criterion
        return self.merges and criterion is not None and criterion.needs_attention

    def judge(self, rows: Rows, signals: Signals) -> Feedback:
        """Feedback for the search on ``rows``, on the device of what it looks at."""
        if not self.merges:
            return Feedback(confident=torch.ones(len(rows), dtype=torch.bool))
        search = self.search
        return Feedback(
            scores=search.criterion and search.criterion.score(rows, signals),
            confident=search.gate and search.gate.confident(signals),
            uncertainty=search.gate and search.gate.uncertainty(signals).double(),
        )

    def begin_merge(self, num_images: int) -> Merge:
        """Begin to merge the states of ``num_images`` images."""
        if not self.merges:
            return Merge(self.aggregator.stage, ones, num_images)
        return self.aggregator.merge(num_images, self.budget)

    def begin_comparison(self, num_images: int) -> Disagreement | None:
        """Begin to compare the states of ``num_images`` images; None if nothing is to compare."""
        if not self.merges or not self.uncertainty:
            return None
        return Disagreement(num_images, self.adapter.independent_classes)

    def outputs(self, computed: BackboneOutputs, head: Head, mirrored: bool = False) -> RowOutputs:
        """See `RowOutputs`: outputs of computed rows, their logits made by ``head``."""
        return RowOutputs(
            computed,
            head,
            self.geometry,
            self.aggregator.alignment,
            self.aggregator.stage.head_input,
            self.adapter.independent_classes,
            mirrored,
        )

    def head(self, images: Tensor, context: Any, levels: Levels, rows: Rows) -> Tensor:
        """Logits of rows, from their output levels or from what became of those.

        Args:
            images: ``(N, C, H, W)`` of the batch, of which heads read the size alone.
            context: of the batch.
            levels: per level ``(M, C, h, w)``.
            rows: ``M`` of them.
        """
        context = self.adapter.context_of(context, rows.images.tolist())
        return self.adapter.head(levels, images, context)

    def _prices(self, looks_at_predictions: bool) -> Prices:
        after = self.aggregator.stage.head_after
        return self.cost_model.prices(
            head_per_state=looks_at_predictions or not after, head_after=after
        )
