"""One batch of images on its way through an ensemble."""

import copy
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..aggregation import RowOutputs
from ..execution import BackboneOutputs, Levels
from ..search import Feedback, Rows, SearchRounds, Signals
from .results import SearchResult, search_result

if TYPE_CHECKING:
    from .ensemble import Ensemble


class BatchInference:
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

    def compute(self, rows: Rows) -> Iterator[RowOutputs]:
        """Compute rows, in parts."""
        return map(self.outputs, self._run.compute(rows))

    def outputs(self, computed: BackboneOutputs) -> RowOutputs:
        """What becomes of computed rows, each thing when it is first asked for."""
        aggregator = self.ensemble.aggregator
        return RowOutputs(
            computed,
            self._head,
            self.ensemble.geometry,
            aggregator.alignment,
            aggregator.stage.head_input,
        )

    def add(self, rows: Rows, see: Callable[[RowOutputs], None] = lambda outputs: None) -> None:
        """Compute and merge rows; ``see`` gets each part before."""
        for outputs in self.compute(rows):
            see(outputs)
            self._merge.add(outputs, last_use=True)
            del outputs  # its maps are large, and the next one's are made before it gives way

    def fork(self) -> 'BatchInference':
        """A batch that has merged the same so far; what was computed is shared."""
        fork = copy.copy(self)
        aggregator = self.ensemble.aggregator
        fork._merge = copy.deepcopy(self._merge, {id(aggregator): aggregator})
        return fork

    def take(self, outputs: RowOutputs) -> None:
        """Merge rows that were computed elsewhere."""
        self._merge.add(outputs)

    def merged(self) -> tuple[Tensor, ...]:
        """What was merged so far, each ``(N, ...)``."""
        return self._merge.result()

    def logits(self) -> Tensor:
        """The merged prediction."""
        count = len(self.images)
        whole = BackboneOutputs(
            Rows(torch.arange(count), self.ensemble.space.default(count)), self.images, ()
        )
        return self.ensemble.aggregator.stage.logits(
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
        parts = []
        for outputs in self.compute(rows):
            self._merge.add(outputs)
            parts.append(outputs)
        attention = self._merge.attention()[-len(rows) :]
        shares = attention.split([len(outputs.rows) for outputs in parts])
        return _in_order(
            [
                (outputs.positions, self._judge(outputs.rows, outputs, share))
                for outputs, share in zip(parts, shares, strict=True)
            ]
        )

    def _take_in_unseen(self, rows: Rows) -> Feedback:
        """Compute the only state there is to be: nothing is compared, so nothing is judged."""
        self.add(rows)
        return Feedback(confident=torch.ones(len(rows), dtype=torch.bool))

    def _judge(
        self,
        rows: Rows,
        outputs: RowOutputs | None = None,
        attention: Tensor | None = None,
    ) -> Feedback:
        search = self.ensemble.search
        signals = Signals(
            displacement=self.ensemble.space.displacement(rows.states),
            image_keys=lambda: image_keys(self.images)[rows.images],
            entropy=lambda: outputs.entropy,
            margin=lambda: outputs.margin,
            attention=lambda: attention,
        )
        return Feedback(
            scores=search.criterion and search.criterion.score(rows, signals),
            confident=search.gate and search.gate.confident(signals),
        )

    def _head(self, levels: Levels, computed: BackboneOutputs) -> Tensor:
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
