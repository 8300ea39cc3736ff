"""An ensemble of states inside one model: the walk from images to merged logits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from types import TracebackType
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..aggregation import Aggregator, Geometry, RowOutputs
from ..errors import MMDiscardError
from ..execution import (
    BackboneOutputs,
    CostModel,
    Levels,
    MemoryLimits,
    PrefixExecutor,
    ReferenceExecutor,
    find_reentry_points,
    measure_cost,
)
from ..search import Prices, Rows, Search, each_of
from ..subsampling import Fingerprint, StateHooks, SubsamplingGroup, SubsamplingMap
from ..subsampling.backbone import blank_image, inference_mode
from .adapters import ATTACHED, ModelAdapter, Predict, unwrap
from .batch_inference import BatchInference
from .merge_target import check_attention, merge_target
from .results import SearchResult, StateOutputs


class Ensemble:
    """A model whose predictions merge several states. Made by `mmdiscard.attach`.

    Also a context manager: leaving it detaches.

    Args:
        adapter: of the model.
        found: what discovery says of the model's backbone.
        groups: the groups to search.
        search: chooses states.
        aggregator: merges them.
        limits: bounds on memory.

    Attributes:
        groups: the searched groups.
        space: their states.
        cost_model: what the parts of the model cost, at the size it was traced with.
        prices: what states cost with this search and aggregator; ``prices.of(states)`` is the
            prefix-tree bound of a set of states.
        executor: computes states.
        last: `SearchResult` of the last batch; None before the first.
        weight: what the states of its images weigh together, see `BatchInference.weight`.
        listeners: called with every `SearchResult`.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        found: SubsamplingMap,
        groups: tuple[SubsamplingGroup, ...],
        search: Search,
        aggregator: Aggregator,
        limits: MemoryLimits | None = None,
    ) -> None:
        self.adapter = adapter
        self.groups = groups
        self.search = search
        self.aggregator = aggregator
        self.last: SearchResult | None = None
        self.weight: Tensor | None = None
        self.listeners: list[Callable[[SearchResult], None]] = []
        self._predict: Predict = self.predict
        self._input_size = found.input_size
        self._hooks = StateHooks(adapter.backbone, groups)
        self.space = self._hooks.space
        self.geometry = Geometry(self.space, found.strides)
        try:
            check_attention(search, aggregator)
            self.cost_model = self.measure_cost(found.input_size)
            aggregator.prepare(partial(merge_target, self, found.input_size))
            self.executor = PrefixExecutor(
                adapter.features,
                self._hooks,
                self.cost_model,
                self._find_entries(found.input_size),
                limits,
            )
        except BaseException:
            self.detach()
            raise
        adapter.install(lambda images, context: self._predict(images, context))
        setattr(adapter.model, ATTACHED, self)

    @cached_property
    def prices(self) -> Prices:
        prices = self._prices(self.search.runs_head or self.aggregator.needs_prediction)
        one = self.search.most_states(self.space, prices) == 1
        return self._prices(False) if one else prices

    @property
    def fingerprint(self) -> Fingerprint:
        """What a file made for this model and these groups must find again."""
        model, backbone = self.adapter.model, self.adapter.backbone
        return Fingerprint.of(model, backbone, self.groups, self._input_size)

    @property
    def divisor(self) -> tuple[int, int]:
        """Images with sides that this divides are cut into whole cells; ``(1, 1)`` for any size."""
        if not self.adapter.stretches_maps:
            return 1, 1
        return tuple(map(max, zip(*self.geometry.strides, strict=True)))

    @cached_property
    def budget(self) -> int:
        """Number of states per image at most, ``B``."""
        return self.search.most_states(self.space, self.prices)

    def predict(self, images: Tensor, context: Any = None) -> Tensor:
        """Search, compute, align and merge.

        Where a GPU runs out of memory, rows and cache are halved from then on and the batch begins
        again.

        Args:
            images: ``(N, 3, H, W)``, preprocessed.
            context: what the head asks for besides; the image metas of a segmentor.

        Returns:
            Logits ``(N, K)``, or ``(N, K, H, W)`` if dense.
        """
        while True:
            try:
                return self._merged(images, context)
            except torch.cuda.OutOfMemoryError:
                limits = self.executor.limits.halved(len(images))
                if limits is None:
                    raise
            # Not inside the handler: what it holds of the failed batch has to be free by now.
            self._lower(limits)

    def explore(self, images: Tensor, states: Tensor, context: Any = None) -> Iterator[RowOutputs]:
        """Compute given states of every image, sharing what they have in common.

        Args:
            images: ``(N, 3, H, W)``, preprocessed.
            states: ``(P, G)``.
            context: as for `predict`.

        Yields:
            Parts of the ``P * N`` rows, each with its aligned features or output when asked.
        """
        states = self.space.check(states)
        batch = BatchInference(self, images, context)
        yield from batch.compute(each_of(states, torch.arange(len(images))))

    def publish(self, result: SearchResult) -> None:
        """Keep what became of a batch, and tell the listeners."""
        self.last = result
        for listener in self.listeners:
            listener(result)

    def use(self, search: Search) -> None:
        """Search otherwise from now on.

        Raises:
            MMDiscardError: if the search does not fit the groups or the aggregator.
        """
        search.prepare(self.space)
        check_attention(search, self.aggregator)
        self.search = search
        for name in ('prices', 'budget'):
            vars(self).pop(name, None)

    @contextmanager
    def route(self, predict: Predict) -> Iterator[None]:
        """Let the model predict by ``predict(images, context)`` instead, within a context."""
        self._predict = predict
        try:
            yield
        finally:
            self._predict = self.predict

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, states: Tensor, context: Any = None) -> StateOutputs:
        """Compute given states, without search, alignment or merging.

        Args:
            inputs: ``(N, 3, H, W)``, preprocessed.
            states: ``(P, G)`` for all images alike, or ``(N, P, G)``.
            context: as for `predict`.

        Raises:
            MMDiscardError: if a state does not fit `groups`.
        """
        count = len(inputs)
        states = self.space.check(states)
        states = states.expand(count, *states.shape[-2:]).transpose(0, 1)
        rows = Rows(torch.arange(count).repeat(len(states)), states.flatten(0, 1))
        parts = list(ReferenceExecutor(self.adapter.features, self._hooks).run(inputs, rows))
        context = context or self.adapter.default_context(inputs)
        logits = [self.head(context, part.features, part) for part in parts]
        levels = zip(*(part.features for part in parts), strict=True)

        def per_image(tensors: tuple[Tensor, ...]) -> Tensor:
            return torch.cat(tensors).unflatten(0, (len(states), count)).transpose(0, 1)

        return StateOutputs(tuple(per_image(level) for level in levels), per_image(tuple(logits)))

    def head(self, context: Any, levels: Levels, computed: BackboneOutputs) -> Tensor:
        """Logits of computed rows, from their levels or from what became of those."""
        rows = computed.rows.images.tolist()
        return self.adapter.head(levels, computed.inputs, self.adapter.context_of(context, rows))

    def measure_cost(self, input_size: tuple[int, int]) -> CostModel:
        """Count the multiply-accumulates of one image of ``input_size``, part by part.

        Raises:
            MMDiscardError: if the model does not run on images of that size.
        """
        image = blank_image(self.adapter.backbone, input_size)
        context = self.adapter.default_context(image)
        try:
            with inference_mode(self.adapter.model):
                return measure_cost(
                    self._hooks,
                    self.adapter.features,
                    lambda levels: self.adapter.head(levels, image, context),
                    image,
                )
        except (RuntimeError, AssertionError, IndexError) as error:
            raise MMDiscardError(
                f'the model does not run on an image of {input_size}: {error}; if another size '
                'would do, set `input_size` in `subsampling`'
            ) from error

    def detach(self) -> None:
        """Give the model back bit for bit as it was; a second call does nothing."""
        if self._hooks is not None:
            self._hooks.remove()
            self.adapter.uninstall()
            self._hooks = None

    def __enter__(self) -> 'Ensemble':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _merged(self, images: Tensor, context: Any) -> Tensor:
        batch = BatchInference(self, images, context)
        batch.follow(self.search.rounds(len(images), self.space, self.prices))
        logits = batch.logits()
        self.weight = batch.weight
        self.publish(batch.result())
        return logits

    def _lower(self, limits: MemoryLimits) -> None:
        torch.cuda.empty_cache()
        self.executor.limits = limits
        print_log(
            f'mmdiscard: the GPU ran out of memory; from now on at most max_rows={limits.max_rows} '
            f'rows and max_cache_bytes={limits.max_cache_bytes} are in use. Setting them so from '
            'the beginning saves the attempt.',
            'current',
            level=30,
        )

    def _prices(self, looks_at_predictions: bool) -> Prices:
        after = self.aggregator.stage.head_after
        return self.cost_model.prices(
            head_per_state=looks_at_predictions or not after, head_after=after
        )

    def _find_entries(self, input_size: tuple[int, int]) -> Any:
        image = blank_image(self.adapter.backbone, input_size)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn((2, *image.shape[1:]), generator=generator)
        with inference_mode(self.adapter.model):
            return find_reentry_points(self.adapter.features, self._hooks, noise.to(image))


def ensemble_of(model: Any) -> Ensemble | None:
    """The ensemble that is attached to a model, or to what it wraps; None if there is none."""
    try:
        return getattr(unwrap(model), ATTACHED, None)
    except MMDiscardError:  # a model that cannot be attached to can still be augmented
        return None
