"""An attached model with a fixed set of states as one module: images in, merged logits out."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..aggregation import RowOutputs
from ..aggregation.aggregators import ones
from ..aggregation.row_outputs import normalized_entropy
from ..aggregation.running_mean import expand_weights
from ..errors import MMDiscardError
from ..execution import BackboneOutputs, Levels
from ..models import Ensemble
from ..models.adapters import ModelAdapter, last_head
from ..search import KnownStates, Rows
from .fixed_alignment import FixedAlignment, translate
from .state_plan import Step, plan_states
from .traced_hooks import TracedHooks


def fixed_states(ensemble: Ensemble) -> list[tuple[int, ...]]:
    """The states that every image takes, in the order of their indices.

    Raises:
        MMDiscardError: if images take states of their own, or are merged in a way that no graph
            can hold.
    """
    search, aggregator = ensemble.search, ensemble.aggregator
    if not search.same_for_all:
        why = 'its gate ends images' if isinstance(search, KnownStates) else 'it chooses states'
        raise MMDiscardError(
            f'{type(search).__name__} cannot be exported: {why} by what was computed of each, and '
            'a graph does the same for every image; use SpreadStates, or FixedStates with a file '
            'of `python -m mmdiscard.calibrate`, without a gate'
        )
    if not aggregator.adds_states:
        raise MMDiscardError(
            f'{type(aggregator).__name__} cannot be exported, as its merging is not a weighted '
            'mean with known weights; use AverageAggregator or EntropyAggregator'
        )
    if ensemble.windows is not None:
        raise MMDiscardError(
            "where='unsure' cannot be exported: windows lie elsewhere in every image; leave it out"
        )
    return sorted(map(tuple, ensemble.pipeline.known_states.tolist()))


class MergedModel(nn.Module):
    """Computes fixed states of every image and merges them. It can be traced.

    All that depends on states alone is worked out here, in whole numbers; `forward` is operations
    on images. In eager use it computes shared prefixes again: in a graph nothing uses them.

    Args:
        ensemble: attached to the model, and to stay so.
        states: one index per searched group each.
        example: an image ``(1, C, H, W)`` to try, preprocessed.
        preprocess: applied to the images first; None if they are preprocessed.
        labels: whether to return labels ``(N,)`` or ``(N, H, W)`` instead of logits.

    Raises:
        MMDiscardError: if the alignment cannot be exported.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        states: Sequence[tuple[int, ...]],
        example: Tensor,
        preprocess: nn.Module | None = None,
        labels: bool = False,
    ) -> None:
        super().__init__()
        self.model = ensemble.adapter.model
        self.preprocess = preprocess
        self.labels = labels
        self._adapter = ensemble.adapter
        self._aggregator = ensemble.aggregator
        self._groups = ensemble.groups
        self._geometry = ensemble.geometry
        self._steps = plan_states(states, ensemble.executor.entries.possible)
        self._alignments = self._fixed_alignments()
        self._hooks = TracedHooks(self._adapter.backbone, ensemble.groups)
        self._shifts = self._pixels_of_logits(example)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` or ``(N, K, H, W)`` of images ``(N, C, H, W)``, or their labels."""
        if self.preprocess is not None:
            images = self.preprocess(images)
        stage = self._aggregator.stage
        merged = WeightedSum()
        for outputs, shift in zip(self._outputs(images), self._shifts, strict=True):
            one = len(self._steps) == 1
            weights = ones(outputs) if one else self._aggregator.weights(outputs)
            merged.add(stage.values(outputs), weights, shift)
        logits = stage.logits(merged.result(), lambda levels: self._head(levels, images))
        return labels_of(logits, self._adapter) if self.labels else logits

    def remove(self) -> None:
        """Take its hooks out of the model."""
        self._hooks.remove()

    def _outputs(self, images: Tensor) -> Iterator['TracedOutputs']:
        """Outputs of all states, in the order of the steps."""
        received = self._adapter.backbone_input(images, self._context(images))
        computed: list[tuple[Levels, dict]] = []
        for step, alignment in zip(self._steps, self._alignments, strict=True):
            levels, recorded = self._run(step, received, computed)
            computed.append((levels, recorded))
            # One row stands for all images, which take the same state.
            rows = Rows(torch.zeros(1, dtype=torch.long), torch.tensor([step.state]))
            yield TracedOutputs(
                BackboneOutputs(rows, images, levels),
                lambda levels, _: self._head(levels, images),
                self._geometry,
                alignment,
                self._aggregator.stage.head_input,
                self._adapter.independent_classes,
            )

    def _run(self, step: Step, images: Tensor, computed: list) -> tuple[Levels, dict]:
        """Output levels of one state, and what later ones begin from."""
        source, begun = None, {}
        if step.entry is not None:
            source, recorded = computed[step.source]
            begun = recorded[step.entry]
        options = dict(entry=step.entry, fed=begun, record=step.record)
        with self._hooks.select(step.state, **options) as selected:
            levels = self._adapter.features(images)
        if source is not None:
            behind = self._groups[step.entry].levels
            levels = tuple(new if i in behind else source[i] for i, new in enumerate(levels))
        return levels, selected.recorded

    def _head(self, levels: Levels, images: Tensor) -> Tensor:
        return self._adapter.head(levels, images, self._context(images))

    def _context(self, images: Tensor) -> Any:
        # Of one image, as heads read that of the first: how many there are is not known.
        return self._adapter.default_context(images.new_empty((1, *images.shape[1:])))

    def _fixed_alignments(self) -> list[FixedAlignment]:
        states = [torch.tensor([step.state]) for step in self._steps]
        alignment = self._aggregator.alignment
        return [FixedAlignment.of(alignment, self._geometry, state) for state in states]

    @torch.no_grad()
    def _pixels_of_logits(self, image: Tensor) -> list[tuple[int, int]]:
        """By step, how far its logits are moved back, in whole pixels."""
        if not self._aggregator.alignment.in_output_space:
            return [(0, 0)] * len(self._steps)
        levels = self._adapter.features(self._adapter.backbone_input(image, self._context(image)))
        sizes = zip(self._head(levels, image).shape[2:], image.shape[2:], strict=True)
        scale = torch.tensor([out / size for out, size in sizes])
        displacement = self._geometry.space.displacement
        shifts = [displacement(torch.tensor([step.state]))[0] * scale for step in self._steps]
        return [tuple(shift.round().long().tolist()) for shift in shifts]


class TracedOutputs(RowOutputs):
    """`RowOutputs` of one state that all images take, for an aggregator to weigh."""

    @cached_property
    def entropies(self) -> Tensor:
        # Parts of a size that depends on the number of images would fix that number.
        return normalized_entropy(self.logits, self._independent, in_parts=False)


class WeightedSum:
    """The weighted mean over states, of one or several tensors."""

    def __init__(self) -> None:
        self._sums: tuple[Tensor, ...] = ()
        self._totals: tuple[Tensor, ...] = ()
        self._first: tuple[Tensor, ...] | None = None
        self._count = 0

    def add(self, values: tuple[Tensor, ...], weights: Tensor, shift: tuple[int, int]) -> None:
        """Take in one state.

        Args:
            values: ``(N, ...)`` each.
            weights: ``(N,)``, ``(1,)`` or ``(N, H, W)``.
            shift: whole cells by which both are moved first.
        """
        values = tuple(translate(value, *shift) for value in values)
        expanded = tuple(expand_weights(weights, value) for value in values)
        if weights.ndim > 1:
            expanded = tuple(translate(weight, *shift) for weight in expanded)
        weighted = tuple(v * w for v, w in zip(values, expanded, strict=True))
        if not self._count:
            self._first, self._sums, self._totals = values, weighted, expanded
        else:
            self._sums = tuple(a + b for a, b in zip(self._sums, weighted, strict=True))
            self._totals = tuple(a + b for a, b in zip(self._totals, expanded, strict=True))
        self._count += 1

    def result(self) -> tuple[Tensor, ...]:
        """The means; one state alone as it is."""
        if self._count == 1:
            return self._first
        return tuple(a / b for a, b in zip(self._sums, self._totals, strict=True))


def check_labels(adapter: ModelAdapter) -> None:
    """Check that a prediction is one label for each image or pixel.

    Raises:
        MMDiscardError: if it is a set of them.
    """
    if adapter.independent_classes and not adapter.dense:
        raise MMDiscardError(
            f'{type(adapter.model.head).__name__} gives an image any number of labels; export '
            'logits, without --labels'
        )


def labels_of(logits: Tensor, adapter: ModelAdapter) -> Tensor:
    """The class of each image or pixel, as MM reads it off the logits."""
    if logits.ndim == 4 and logits.shape[1] == 1:
        threshold = last_head(adapter.model).threshold
        return (logits[:, 0].sigmoid() > threshold).long()
    return logits.argmax(1)
