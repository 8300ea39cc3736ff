"""One batch of images: its states computed, judged and merged."""

import copy
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..aggregation import RowOutputs
from ..execution import BackboneOutputs, Levels
from ..search import Feedback, Rows, SearchRounds, Signals, next_round
from .pipeline import Pipeline
from .results import SearchResult


class BatchInference:
    """Computes, judges and merges the states of one batch.

    Args:
        pipeline: what the batch goes through.
        images: ``(N, C, H, W)``, preprocessed, as the model receives them.
        context: what the head needs besides, such as image metas; None for bare images.

    Attributes:
        received: ``(N, C, H, W)``, what the backbone receives for these images.
    """

    def __init__(self, pipeline: Pipeline, images: Tensor, context: Any = None) -> None:
        adapter = pipeline.adapter
        self.pipeline = pipeline
        self.images = images
        self._context = adapter.default_context(images) if context is None else context
        self.received = adapter.backbone_input(images, self._context)
        self._run = pipeline.executor.start(self.received)
        self._heads = torch.zeros(len(images), dtype=torch.long)
        self._merge = pipeline.begin_merge(len(images))
        self._comparison = pipeline.begin_comparison(len(images))
        self._asked: list[Rows] = []
        self._answers: list[Feedback] = []

    @property
    def costs(self) -> Tensor:
        """Cost of each image so far, in plain forwards: ``(N,)``."""
        return self._run.costs + self.pipeline.cost_model.head * self._heads

    @property
    def weight(self) -> Tensor | None:
        """Sum of the weights of each image's states, ``(N, 1, ...)``.

        None where weights do not say how sure predictions are.
        """
        return self._merge.total if self.pipeline.weighs_confidence else None

    @property
    def disagreement(self) -> Tensor | None:
        """Of each image's states, ``(N,)`` or ``(N, H, W)``; None if it is not asked for."""
        return None if self._comparison is None else self._comparison.result()

    def follow(self, rounds: SearchRounds) -> None:
        """Compute and merge what a search asks for, until it ends."""
        looks = self.pipeline.needs_prediction
        rows = next(rounds)
        while rows is not None:
            feedback = self.ask(rows) if looks else self._record(rows, self._judge(rows))
            rows = next_round(rounds, feedback)
        if not looks:  # the states are known before anything is computed: do it in one go
            images = torch.cat([rows.images for rows in self._asked])
            self.add(Rows(images, torch.cat([rows.states for rows in self._asked])))

    def ask(self, rows: Rows) -> Feedback:
        """Compute, judge and merge one round of a search."""
        judge = self._ask_by_attention if self.pipeline.compares_attention else self._ask_one_by_one
        return self._record(rows, judge(rows))

    def compute(self, rows: Rows) -> Iterator[RowOutputs]:
        """Compute rows, in parts."""
        return map(self.outputs, self._run.compute(rows))

    def outputs(self, computed: BackboneOutputs, mirrored: bool = False) -> RowOutputs:
        """Aligned levels, logits and entropy of computed rows, each worked out when asked for."""
        return self.pipeline.outputs(computed, self._head, mirrored)

    def add(self, rows: Rows, see: Callable[[RowOutputs], None] = lambda outputs: None) -> None:
        """Compute and merge rows; ``see`` gets each part before."""
        for outputs in self.compute(rows):
            see(outputs)
            self.take(outputs, last_use=True)
            del outputs  # its maps are large, and the next one's are made before it gives way

    def take(self, outputs: RowOutputs, last_use: bool = False) -> None:
        """Merge rows that are computed; see `Merge.add`."""
        if self._comparison is not None:
            self._comparison.add_rows(outputs)
        self._merge.add(outputs, last_use)

    def fork(self) -> 'BatchInference':
        """A batch that has merged the same so far; what was computed is shared."""
        fork = copy.copy(self)
        aggregator = self.pipeline.aggregator
        fork._merge = copy.deepcopy(self._merge, {id(aggregator): aggregator})
        fork._comparison = copy.deepcopy(self._comparison)
        return fork

    def merged(self) -> tuple[Tensor, ...]:
        """The tensors merged so far, each ``(N, ...)``."""
        return self._merge.result()

    def logits(self) -> Tensor:
        """The merged prediction, ``(N, K)`` or ``(N, K, H, W)``."""
        count = len(self.images)
        rows = Rows(torch.arange(count), self.pipeline.space.default(count))
        whole = BackboneOutputs(rows, self.images, ())
        return self.pipeline.aggregator.stage.logits(
            self.merged(), lambda levels: self._head(levels, whole)
        )

    def result(self) -> SearchResult:
        """Result of the search for this batch: what all rounds asked for, by image."""
        images = torch.cat([rows.images for rows in self._asked])
        by_image = images.argsort(stable=True)
        counts = images.bincount(minlength=len(self.images))

        def sorted_out(values: list[Tensor], rest: float) -> Tensor:
            own = torch.cat(values)[by_image].split(counts.tolist())
            return pad_sequence(own, batch_first=True, padding_value=rest)

        states = sorted_out([rows.states for rows in self._asked], -1)
        known = [answer.scores for answer in self._answers if answer.scores is not None]
        sets = [tuple(map(tuple, own[:n].tolist())) for own, n in zip(states, counts, strict=True)]
        bounds = {own: self.pipeline.prices.of(own) for own in set(sets)}
        return SearchResult(
            states=states,
            scores=sorted_out(known, float('nan')) if len(known) == len(self._asked) else None,
            counts=counts,
            costs=self.costs,
            bounds=torch.tensor([bounds[own] for own in sets], dtype=torch.float64),
            size=tuple(self.images.shape[2:]),
            weight=self.weight,
            disagreement=self.disagreement,
        )

    def _record(self, rows: Rows, feedback: Feedback) -> Feedback:
        self._asked.append(rows)
        self._answers.append(feedback)
        return feedback

    def _ask_one_by_one(self, rows: Rows) -> Feedback:
        parts = []
        self.add(rows, lambda o: parts.append((o.positions, self._judge(o.rows, o))))
        return _in_order(parts)

    def _ask_by_attention(self, rows: Rows) -> Feedback:
        """Score states by attention, which depends on all states so far: merge, then score."""
        parts = []
        for outputs in self.compute(rows):
            self.take(outputs)
            parts.append(outputs)
        attention = self._merge.attention()[-len(rows) :]
        shares = attention.split([len(outputs.rows) for outputs in parts])
        return _in_order(
            [
                (outputs.positions, self._judge(outputs.rows, outputs, share))
                for outputs, share in zip(parts, shares, strict=True)
            ]
        )

    def _judge(
        self, rows: Rows, outputs: RowOutputs | None = None, attention: Tensor | None = None
    ) -> Feedback:
        signals = Signals(
            displacement=self.pipeline.space.displacement(rows.states),
            image_keys=lambda: image_keys(self.images)[rows.images],
            entropy=lambda: outputs.entropy,
            margin=lambda: outputs.margin,
            attention=lambda: attention,
        )
        return self.pipeline.judge(rows, signals)

    def _head(self, levels: Levels, computed: BackboneOutputs) -> Tensor:
        self._heads += computed.rows.images.bincount(minlength=len(self.images))
        return self.pipeline.head(self.images, self._context, levels, computed.rows)


def _in_order(parts: list[tuple[Tensor, Feedback]]) -> Feedback:
    """Feedback on parts as feedback on the rows in the order in which they were asked for.

    It is moved to the CPU here, once a round, so that a GPU is not waited for after every part.
    """
    order = torch.cat([positions for positions, _ in parts]).argsort()

    def joined(values: list[Tensor | None]) -> Tensor | None:
        return None if values[0] is None else torch.cat(values).cpu()[order]

    return Feedback(
        scores=joined([feedback.scores for _, feedback in parts]),
        confident=joined([feedback.confident for _, feedback in parts]),
        uncertainty=joined([feedback.uncertainty for _, feedback in parts]),
    )


def image_keys(images: Tensor) -> Tensor:
    """A number per image that depends on its content alone: ``(N, C, H, W)`` -> ``(N,)`` long."""
    step = max(1, min(images.shape[2:]) // 16)
    sample = images[:, :, ::step, ::step].detach().float().cpu().numpy()
    return torch.tensor([zlib.crc32(image.tobytes()) for image in sample])
