"""One batch of images on its way through an ensemble."""

import copy
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..aggregation import Evaluation
from ..execution import Computed, Levels
from ..search import Feedback, Rows, SearchRounds, Signals
from .results import SearchResult, search_result

if TYPE_CHECKING:
    from .ensemble import Ensemble


class Batch:
    """Computes, judges and merges the states of one batch.

    Args:
        ensemble: what the batch goes through.
        images: ``(N, 3, H, W)``, preprocessed.
        context: what the head asks for besides; None for bare images.

    Attributes:
        asked: rows of every round so far.
        answers: what the search was told of them.
    """

    def __init__(self, ensemble: 'Ensemble', images: Tensor, context: Any = None) -> None:
        self.ensemble = ensemble
        self.images = images
        self.asked: list[Rows] = []
        self.answers: list[Feedback] = []
        self._run = ensemble.executor.start(images)
        self._heads = torch.zeros(len(images), dtype=torch.long)
        self._context = ensemble.adapter.default_context(images) if context is None else context
        self._merge = ensemble.aggregator.merge(len(images), ensemble.budget)

    @property
    def costs(self) -> Tensor:
        """What was computed so far of each image, in plain forwards: ``(N,)``."""
        return self._run.costs + self.ensemble.cost_model.head * self._heads

    @property
    def weight(self) -> Tensor | None:
        """What the states of each image weigh together, ``(N, 1, ...)``.

        None where weights do not say how sure predictions are.
        """
        comparable = self.ensemble.aggregator.weighs_confidence and self.ensemble.budget > 1
        return self._merge.total if comparable else None

    def follow(self, rounds: SearchRounds) -> None:
        """Compute and merge what a search asks for, until it ends."""
        search = self.ensemble.search
        if self.ensemble.budget == 1:
            self._converse(rounds, self._take_in_unseen)
        elif search.needs_prediction:
            joint = search.criterion is not None and search.criterion.needs_attention
            self._converse(rounds, self._take_in_then_judge if joint else self._take_in)
        else:
            # The states are known before anything is computed, so compute them in one go.
            self._converse(rounds, self._judge)
            images = torch.cat([rows.images for rows in self.asked])
            self.add(Rows(images, torch.cat([rows.states for rows in self.asked])))

    def evaluations(self, rows: Rows) -> Iterator[Evaluation]:
        """Compute rows, in parts."""
        return map(self.evaluation, self._run.compute(rows))

    def evaluation(self, computed: Computed) -> Evaluation:
        """What becomes of computed rows, each thing when it is first asked for."""
        aggregator = self.ensemble.aggregator
        return Evaluation(
            computed,
            self._head,
            self.ensemble.geometry,
            aggregator.alignment,
            aggregator.space.head_input,
        )

    def add(self, rows: Rows, see: Callable[[Evaluation], None] = lambda evaluation: None) -> None:
        """Compute and merge rows; ``see`` gets each part before."""
        for evaluation in self.evaluations(rows):
            see(evaluation)
            self._merge.add(evaluation, last_use=True)
            del evaluation  # its maps are large, and the next one's are made before it gives way

    def fork(self) -> 'Batch':
        """A batch that has merged the same so far; what was computed is shared."""
        fork = copy.copy(self)
        aggregator = self.ensemble.aggregator
        fork._merge = copy.deepcopy(self._merge, {id(aggregator): aggregator})
        return fork

    def take(self, evaluation: Evaluation) -> None:
        """Merge rows that were computed elsewhere."""
        self._merge.add(evaluation)

    def merged(self) -> tuple[Tensor, ...]:
        """What was merged so far, each ``(N, ...)``."""
        return self._merge.result()

    def logits(self) -> Tensor:
        """The merged prediction."""
        count = len(self.images)
        whole = Computed(
            Rows(torch.arange(count), self.ensemble.space.default(count)), self.images, ()
        )
        return self.ensemble.aggregator.space.logits(
            self.merged(), lambda levels: self._head(levels, whole)
        )

    def result(self) -> SearchResult:
        """What was asked for and found."""
        size = tuple(self.images.shape[2:])
        return search_result(self.asked, self.answers, self.costs, self.ensemble.prices, size)

    def _converse(self, rounds: SearchRounds, answer: Any) -> None:
        rows = next(rounds)
        while True:
            self.asked.append(rows)
            self.answers.append(answer(rows))
            try:
                rows = rounds.send(self.answers[-1])
            except StopIteration:
                return

    def _take_in(self, rows: Rows) -> Feedback:
        """Compute, judge and merge rows."""
        parts = []
        self.add(rows, lambda e: parts.append((e.positions, self._judge(e.rows, e))))
        return _in_order(parts)

    def _take_in_then_judge(self, rows: Rows) -> Feedback:
        """Likewise, where a state is judged by how it compares with all others so far."""
        evaluations = []
        for evaluation in self.evaluations(rows):
            self._merge.add(evaluation)
            evaluations.append(evaluation)
        attention = self._merge.attention()[-len(rows) :]
        shares = attention.split([len(evaluation.rows) for evaluation in evaluations])
        return _in_order(
            [
                (evaluation.positions, self._judge(evaluation.rows, evaluation, share))
                for evaluation, share in zip(evaluations, shares, strict=True)
            ]
        )

    def _take_in_unseen(self, rows: Rows) -> Feedback:
        """Compute the only state there is to be: nothing is compared, so nothing is judged."""
        self.add(rows)
        return Feedback(confident=torch.ones(len(rows), dtype=torch.bool))

    def _judge(
        self,
        rows: Rows,
        evaluation: Evaluation | None = None,
        attention: Tensor | None = None,
    ) -> Feedback:
        search = self.ensemble.search
        signals = Signals(
            displacement=self.ensemble.space.displacement(rows.states),
            image_keys=lambda: image_keys(self.images)[rows.images],
            entropy=lambda: evaluation.entropy,
            margin=lambda: evaluation.margin,
            attention=lambda: attention,
        )
        return Feedback(
            scores=search.criterion and search.criterion.score(rows, signals),
            confident=search.gate and search.gate.confident(signals),
        )

    def _head(self, levels: Levels, computed: Computed) -> Tensor:
        self._heads += computed.rows.images.bincount(minlength=len(self.images))
        return self.ensemble.head(self._context, levels, computed)


def _in_order(parts: list[tuple[Tensor, Feedback]]) -> Feedback:
    """Feedback on parts as feedback on the rows in the order in which they were asked for."""
    order = torch.cat([positions for positions, _ in parts]).argsort()

    def joined(values: list[Tensor | None]) -> Tensor | None:
        return None if values[0] is None else torch.cat(values)[order]

    return Feedback(
        scores=joined([feedback.scores for _, feedback in parts]),
        confident=joined([feedback.confident for _, feedback in parts]),
    )


def image_keys(images: Tensor) -> Tensor:
    """A number per image that depends on its content alone: ``(N, 3, H, W)`` -> ``(N,)`` long."""
    step = max(1, min(images.shape[2:]) // 16)
    sample = images[:, :, ::step, ::step].detach().float().cpu().numpy()
    return torch.tensor([zlib.crc32(image.tobytes()) for image in sample])
