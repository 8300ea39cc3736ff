"""A model whose predictions merge several states."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..aggregation import Aggregator, Geometry, RowOutputs
from ..errors import MMDiscardError
from ..execution import CostModel, MemoryLimits, PrefixExecutor, ReferenceExecutor
from ..search import Prices, Rows, Search, each_of
from ..subsampling import Fingerprint, StateSpace, SubsamplingGroup
from .adapters import ATTACHED, ModelAdapter
from .batch_inference import BatchInference
from .pipeline import Pipeline
from .results import SearchResult, StateOutputs
from .unsure_windows import UnsureWindows
from .window_inference import WindowSearch
from .wrappers import unwrap


class Ensemble:
    """A model whose predictions merge several states. Made by `mmdiscard.attach`.

    Also a context manager: leaving it detaches. A copy or a pickle of the model is plain.

    Args:
        pipeline: what every batch goes through.
        input_size: ``(H, W)`` that the model was traced with.
        where: windows in which states are computed; None for the whole image.

    Attributes:
        last: `SearchResult` of the last batch; None before the first.
        listeners: called with every `SearchResult`.
        windows: `WindowSearch` that chooses windows; None for the whole image.

    Raises:
        MMDiscardError: if states cannot be computed in these windows.
    """

    def __init__(
        self, pipeline: Pipeline, input_size: tuple[int, int], where: UnsureWindows | None = None
    ) -> None:
        self.pipeline = pipeline
        self.windows = where and WindowSearch(where, pipeline, input_size)
        self._where = where
        self.last: SearchResult | None = None
        self.listeners: list[Callable[[SearchResult], None]] = []
        self.input_size = input_size
        self._attached = True

    @property
    def groups(self) -> tuple[SubsamplingGroup, ...]:
        """The searched groups, in execution order."""
        return self.space.groups

    @property
    def space(self) -> StateSpace:
        """The states of these groups."""
        return self.pipeline.space

    @property
    def adapter(self) -> ModelAdapter:
        return self.pipeline.adapter

    @property
    def executor(self) -> PrefixExecutor:
        return self.pipeline.executor

    @property
    def search(self) -> Search:
        return self.pipeline.search

    @property
    def aggregator(self) -> Aggregator:
        return self.pipeline.aggregator

    @property
    def geometry(self) -> Geometry:
        return self.pipeline.geometry

    @property
    def cost_model(self) -> CostModel:
        """Cost of the segments of the model, at the traced size."""
        return self.pipeline.cost_model

    @property
    def prices(self) -> Prices:
        """Prices of states; ``prices.of(states)`` is the prefix-tree bound of a set of states."""
        return self.pipeline.prices

    @property
    def budget(self) -> int:
        """Number of states per image at most, ``B``."""
        return self.pipeline.budget

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity of this model and its groups, which files made for it are checked against."""
        model, backbone = self.adapter.model, self.adapter.backbone
        return Fingerprint.of(model, backbone, self.groups, self.input_size)

    @property
    def divisor(self) -> tuple[int, int]:
        """Images with sides that this divides are cut into whole cells; ``(1, 1)`` for any size."""
        return self.geometry.coarsest_stride if self.adapter.stretches_maps else (1, 1)

    def predict(self, images: Tensor, context: Any = None) -> Tensor:
        """Search, compute, align and merge a batch of preprocessed images ``(N, C, H, W)``.

        Where a GPU runs out of memory, rows and cache are halved from then on and the batch begins
        again. ``context`` is what the head needs besides; the image metas of a segmentor.

        Returns:
            Logits ``(N, K)``, or ``(N, K, H, W)`` if dense.

        Raises:
            MMDiscardError: if the model is not as it was when it was attached to.
        """
        self.adapter.check_parts()
        if not len(images):
            return self.adapter.logits(images, context)
        while True:
            try:
                return self._predict(images, context)
            except torch.cuda.OutOfMemoryError:
                limits = self.executor.limits.halved(len(images))
                if limits is None:
                    raise
            # Not inside the handler: what it holds of the failed batch has to be free by now.
            self._lower(limits)

    def explore(self, images: Tensor, states: Tensor, context: Any = None) -> Iterator[RowOutputs]:
        """Compute given states of every image, sharing what they have in common.

        Args:
            images: ``(N, C, H, W)``, preprocessed.
            states: ``(P, G)``.
            context: as for `predict`.

        Yields:
            Parts of the ``P * N`` rows, each with its aligned features or output when asked.
        """
        self.adapter.check_parts()
        states = self.space.check(states)
        batch = BatchInference(self.pipeline, images, context)
        yield from batch.compute(each_of(states, torch.arange(len(images))))

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, states: Tensor, context: Any = None) -> StateOutputs:
        """Compute given states, without search, alignment or merging.

        Args:
            inputs: ``(N, C, H, W)``, preprocessed.
            states: ``(P, G)`` for all images alike, or ``(N, P, G)``.
            context: as for `predict`.

        Raises:
            MMDiscardError: if a state does not fit `groups`.
        """
        self.adapter.check_parts()
        count = len(inputs)
        states = self.space.check(states)
        states = states.expand(count, *states.shape[-2:]).transpose(0, 1)
        rows = Rows(torch.arange(count).repeat(len(states)), states.flatten(0, 1))
        context = context or self.adapter.default_context(inputs)
        received = self.adapter.backbone_input(inputs, context)
        executor = ReferenceExecutor(self.adapter.features, self.executor.hooks)
        parts = list(executor.run(received, rows))
        logits = [self.pipeline.head(inputs, context, part.features, part.rows) for part in parts]
        levels = zip(*(part.features for part in parts), strict=True)

        def per_image(tensors: tuple[Tensor, ...]) -> Tensor:
            return torch.cat(tensors).unflatten(0, (len(states), count)).transpose(0, 1)

        return StateOutputs(tuple(per_image(level) for level in levels), per_image(tuple(logits)))

    def publish(self, result: SearchResult) -> None:
        """Keep what became of a batch, and tell the listeners."""
        self.last = result
        for listener in tuple(self.listeners):  # another thread may change the list
            listener(result)

    def use(self, search: Search) -> None:
        """Use another search from now on.

        Raises:
            MMDiscardError: if the search does not fit the groups or the aggregator.
        """
        search.prepare(self.space, self.fingerprint)
        pipeline = replace(self.pipeline, search=search)
        self.windows = self._where and WindowSearch(self._where, pipeline, self.input_size)
        self.pipeline = pipeline

    def detach(self) -> None:
        """Give the model back bit for bit as it was; a second call does nothing."""
        if self._attached:
            self.executor.hooks.remove()
            self.adapter.uninstall()
            self._attached = False

    def __enter__(self) -> 'Ensemble':
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def __deepcopy__(self, memo: dict) -> None:
        return None

    def __reduce__(self) -> tuple:
        return type(None), ()

    def _predict(self, images: Tensor, context: Any) -> Tensor:
        if self.windows is not None and self.pipeline.merges:
            logits, result = self.windows.predict(self.pipeline, images, context)
            self.publish(result)
            return logits
        batch = BatchInference(self.pipeline, images, context)
        batch.follow(self.search.rounds(len(images), self.space, self.prices))
        logits = batch.logits()
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


def ensemble_of(model: Any) -> Ensemble | None:
    """The ensemble that is attached to a model, or to what it wraps; None if there is none."""
    try:
        return getattr(unwrap(model), ATTACHED, None)
    except MMDiscardError:  # a model that cannot be attached to can still be augmented
        return None
