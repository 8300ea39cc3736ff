"""Aggregators, learned and not, on the same states of one model.

States and their features are computed once per image; every method and budget merges the same ones,
through the aggregators that an ensemble uses.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmdiscard.aggregation import Merge, MergeTarget, RowOutputs
from mmdiscard.aggregation.aggregators import ones
from mmdiscard.execution import BackboneOutputs
from mmdiscard.learned import LearnedAggregator
from mmdiscard.learned.feature_cache import FeatureCache
from mmdiscard.learned.state_features import compute_state_features, levels_read
from mmdiscard.models import attach
from mmdiscard.models.batch_inference import BatchInference
from mmdiscard.registry import AGGREGATORS, build

TrainingBatch = tuple[Tensor, Sequence[Any]]


@AGGREGATORS.register_module()
class ClassCorrection(LearnedAggregator):
    """The plain mean, and a number learned for each class that is added to its logits.

    With one state it is what can be had without any others: a control, against which methods are
    held that learn along with the weights of states how often each class occurs.
    """

    def build(self, target: MergeTarget, index: int) -> nn.Module:
        return nn.ParameterList([torch.zeros(target.shapes[index][0])])

    def merge(self, num_images: int, budget: int) -> '_CorrectedMean':
        return _CorrectedMean(self, num_images)


class _CorrectedMean(Merge):
    def __init__(self, aggregator: ClassCorrection, num_images: int) -> None:
        super().__init__(aggregator.stage, ones, num_images)
        self.aggregator = aggregator

    def result(self) -> tuple[Tensor, ...]:
        (mean,) = super().result()
        offset = self.aggregator.part(0, mean)[0]
        return (mean + offset.view(-1, *[1] * (mean.ndim - 2)),)


@dataclass(frozen=True)
class Method:
    """One way to merge.

    Attributes:
        name: as tables have it.
        aggregator: its config.
        lr: to train it with; None for one that does not learn.
        epochs: to train it for.
        one_state: merges the default state alone, whatever the budget.
    """

    name: str
    aggregator: Mapping[str, Any]
    lr: float | None = None
    epochs: int = 0
    one_state: bool = False


class MethodComparison:
    """Methods that merge the same kind of tensors, aligned alike, of the same states.

    Also a context manager: leaving it detaches.

    Args:
        model: built, with its weights.
        methods: what is compared.
        subsampling: see `mmdiscard.attach`.
        search: finds the states; smaller budgets use its first ones.
        cache: of features; None for none.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method],
        subsampling: Mapping[str, Any],
        search: Mapping[str, Any],
        cache: FeatureCache | None = None,
    ) -> None:
        model.requires_grad_(False)
        self.methods = methods
        self.cache = cache
        self.aggregators = {m.name: build(AGGREGATORS, dict(m.aggregator)) for m in methods}
        first, *others = self.aggregators.values()
        for aggregator in others:  # attaching creates their parameters
            attach(model, subsampling, search, aggregator).detach()
        self.ensemble = attach(model, subsampling, search, first)
        self._keep: tuple[bool, ...] | None = None  # known from the first images on

    def __enter__(self) -> 'MethodComparison':
        return self

    def __exit__(self, *error: object) -> None:
        self.ensemble.detach()

    def train(
        self,
        epoch: Callable[[int], Sequence[TrainingBatch]],
        budgets: Sequence[int],
        report: Callable[[str], None],
    ) -> dict[str, float]:
        """Train those that learn side by side, AdamW on a cosine; seconds of the steps of each.

        Args:
            epoch: gives the batches of an epoch: preprocessed images, MM samples.
            budgets: numbers of states that the steps merge, in turn.
            report: gets a line per epoch.
        """
        seconds = {m.name: 0.0 for m in self.methods if m.lr is not None}
        optimizers = {}
        for number in range(max((m.epochs for m in self.methods), default=0)):
            active = [m for m in self.methods if number < m.epochs]
            losses = dict.fromkeys((m.name for m in active), 0.0)
            batches = epoch(number)
            for step, (images, samples) in enumerate(batches):
                parts = self.compute(images)
                for method in active:
                    start = time.perf_counter()
                    count = 1 if method.one_state else budgets[step % len(budgets)]
                    if method.name not in optimizers:
                        optimizers[method.name] = self._optimizer(method, len(batches))
                    loss = self._loss(method, parts[:count], images, samples)
                    losses[method.name] += loss.item() / len(batches)
                    _update(loss, *optimizers[method.name])
                    seconds[method.name] += time.perf_counter() - start
            report(f'epoch {number + 1}: ' + ', '.join(f'{k} {v:.4f}' for k, v in losses.items()))
        return seconds

    @torch.no_grad()
    def compute(self, images: Tensor) -> list[RowOutputs]:
        """The states of every image, one outputs per place; heads run once for all methods."""
        found = self.cache.get(images) if self.cache else None
        if found is None:
            pipeline = self.ensemble.pipeline
            self._keep = self._keep or levels_read(pipeline, images[:1])
            found = compute_state_features(pipeline, images, self._keep)
            if self.cache:
                self.cache.put(images, found)
        batch = BatchInference(self.ensemble.pipeline, images)
        return [
            batch.outputs(
                BackboneOutputs(
                    found.rows[run], images, tuple(level[run] for level in found.features)
                )
            )
            for run in found.rows.runs()
        ]

    @torch.no_grad()
    def logits(self, parts: Sequence[RowOutputs], budget: int) -> dict[str, Tensor]:
        """What every method predicts from the first ``budget`` states, ``(N, K, ...)``."""
        images = parts[0].computed.inputs
        merged = {}
        for method in self.methods:
            tensors = self._merged(method, parts[: 1 if method.one_state else budget])
            merged[method.name] = self.aggregators[method.name].stage.logits(
                tensors, partial(self._head, images)
            )
        return merged

    def cost(self, method: Method, states: Sequence[Sequence[int]]) -> float:
        """Plain forwards: every prefix of the states once, and heads. Attention is not counted."""
        aggregator = self.aggregators[method.name]
        after = aggregator.stage.head_after
        per_state = aggregator.needs_prediction or not after
        prices = self.ensemble.cost_model.prices(head_per_state=per_state, head_after=after)
        return 1.0 if method.one_state else prices.of(states)

    def _head(self, images: Tensor, levels: tuple[Tensor, ...]) -> Tensor:
        context = self.ensemble.adapter.default_context(images)
        return self.ensemble.adapter.head(levels, images, context)

    def _merged(self, method: Method, parts: Sequence[RowOutputs]) -> tuple[Tensor, ...]:
        images = parts[0].computed.inputs
        merge = self.aggregators[method.name].merge(len(images), len(parts))
        for outputs in parts:
            merge.add(outputs)
        return merge.result()

    def _loss(
        self,
        method: Method,
        parts: Sequence[RowOutputs],
        images: Tensor,
        samples: Sequence[Any],
    ) -> Tensor:
        adapter, aggregator = self.ensemble.adapter, self.aggregators[method.name]
        aggregator.module.train()
        tensors = self._merged(method, parts)
        aggregator.module.eval()
        if aggregator.stage.head_after:
            losses = adapter.loss(tensors, images, samples)
        else:
            losses = adapter.loss_of_logits(tensors[0], samples)
        return sum(value.mean() for key, value in losses.items() if 'loss' in key)

    def _optimizer(self, method: Method, steps_per_epoch: int) -> tuple:
        parameters = self.aggregators[method.name].module.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=method.lr, weight_decay=0.01)
        total = method.epochs * steps_per_epoch

        def cosine(step: int) -> float:
            return 0.5 * (1 + math.cos(math.pi * step / total))

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, cosine)


def _update(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
