"""Putting an ensemble into a built model, with every mistake met before an image is."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..aggregation import Aggregator, Geometry, MergeTarget
from ..errors import MMDiscardError
from ..execution import (
    DEFAULT_CACHE_BYTES,
    MemoryLimits,
    PrefixExecutor,
    ReentryPoints,
    find_reentry_points,
    measure_cost,
)
from ..registry import AGGREGATORS, SEARCHES, build
from ..search import Search
from ..subsampling import (
    CheckedSizes,
    Fingerprint,
    StateHooks,
    StateSpace,
    SubsamplingMap,
    map_subsampling,
    select_groups,
)
from ..subsampling.backbone import blank_image, noise_image, plausible_channels, undisturbed
from .adapters import ATTACHED, ModelAdapter
from .ensemble import Ensemble
from .pipeline import Pipeline
from .self_test import SelfTest
from .wrappers import adapter_class, normalised_channels, unwrap


def attach(
    model: Any,
    subsampling: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | Search | None = None,
    aggregator: Mapping[str, Any] | Aggregator | None = None,
    max_rows: int | None = None,
    max_cache_bytes: int = DEFAULT_CACHE_BYTES,
    self_test: bool = True,
) -> Ensemble:
    """Let a model predict with activations that its subsampling layers discard.

    From now on ``predict``, ``test_step`` and inferencers of the model merge several states.
    Training, ``extract_feat`` and the tensor mode stay plain.

    Args:
        model: a built MMPretrain classifier or MMSegmentation segmentor, or something around one: a
            TTA model, a distributed wrapper, an inferencer.
        subsampling: ``groups`` (``'all'``, ``'inner'`` or a list of names, positions and groups by
            hand, ``dict(members=[...])``; default ``'inner'``), ``input_size`` (``(H, W)`` to trace
            with; default 224 x 224) and ``in_channels`` (of the images; found out by default).
        search: config of a search; default ``GreedySearch`` with budget 10.
        aggregator: config of an aggregator; default: the paper's entropy weights on features
            for classifiers, the mean of exactly aligned logits for segmentors.
        max_rows: at most so many rows (image times state) are in flight at once; default the batch
            size.
        max_cache_bytes: what is kept of earlier states for later ones takes at most so much memory;
            beyond it they are computed again.
        self_test: whether to check what mmdiscard assumes of the model, on noise of the size to
            trace with; takes three to five forwards of one image.

    Raises:
        MMDiscardError: if anything does not fit: unknown names, a bad budget, an aggregator that
            the model cannot use, an unsupported model, a model that is attached already.
    """
    model = unwrap(model)
    adapter_type = adapter_class(model)
    if getattr(model, ATTACHED, None) is not None:
        raise MMDiscardError(
            'mmdiscard is attached to this model already; call `detach()` on that ensemble first'
        )
    if not isinstance(search, Search):
        search = build(SEARCHES, search or dict(type='GreedySearch', budget=10))
    aggregator = build(AGGREGATORS, aggregator or adapter_type.default_aggregator)
    aggregator.check(adapter_type.dense)
    limits = MemoryLimits(max_rows, max_cache_bytes)
    which, input_size, in_channels = _subsampling_options(subsampling or {})
    with undisturbed(model) as restore, ExitStack() as undo:
        adapter = adapter_type(model)
        undo.callback(adapter.uninstall)
        found = map_subsampling(
            adapter.backbone, input_size, in_channels, normalised_channels(model)
        )
        adapter.backbone_patch.channels_last = found.channels_last
        groups = select_groups(found, which, adapter.backbone)
        search.prepare(
            StateSpace(groups), Fingerprint.of(model, adapter.backbone, groups, found.input_size)
        )
        hooks = StateHooks(adapter.backbone, groups)
        undo.callback(hooks.remove)
        geometry = Geometry(hooks.space, found.strides)
        sample, found = found.sample, replace(found, sample=None)  # not to be kept in memory
        images = _model_image(adapter, found)
        test = SelfTest(adapter, images, found.small_size, sample, restore) if self_test else None
        if test is not None:
            test.observe()
        entries = _find_reentry_points(adapter, hooks, found)
        probe = _HeadProbe(adapter, found, images)
        cost_model = measure_cost(found, groups, probe.run)
        aggregator.prepare(lambda: probe.merge_target(geometry, aggregator))
        features = CheckedSizes(adapter.features, found)
        executor = PrefixExecutor(features, hooks, cost_model, entries, limits)
        pipeline = Pipeline(adapter, executor, search, aggregator, geometry, cost_model)
        ensemble = Ensemble(pipeline, found.input_size)
        adapter.install(ensemble.predict)
        if test is not None:
            test.check(pipeline)
        vars(model)[ATTACHED] = ensemble
        undo.pop_all()
    return ensemble


def _model_image(adapter: ModelAdapter, found: SubsamplingMap) -> Tensor:
    """A blank image as the model receives it, which may have more channels than its backbone's."""
    backbone, size = adapter.backbone, found.input_size
    likely = (normalised_channels(adapter.model), found.in_channels)
    channels = [c for c in (*likely, *plausible_channels(backbone)) if c]
    images = (blank_image(backbone, size, c) for c in dict.fromkeys(channels))
    accepted = (x for x in images if adapter.accepts(x, found.in_channels))
    return next(accepted, blank_image(backbone, size, channels[0]))


def _find_reentry_points(
    adapter: ModelAdapter, hooks: StateHooks, found: SubsamplingMap
) -> ReentryPoints:
    """Where the backbone can be entered: that is the same at any size.

    In front of groups that nothing comes before, to enter would save nothing.
    """
    groups = hooks.space.groups
    columns = [i for i, group in enumerate(groups) if found.macs_before(group)]
    images = [
        noise_image(adapter.backbone, found.small_size, found.in_channels, seed) for seed in (0, 1)
    ]
    return find_reentry_points(adapter.features, hooks, torch.cat(images), columns)


class _HeadProbe:
    """Runs the head of a model on noise, to learn what it costs and gives.

    To be used inside `undisturbed`, after the backbone ran at any size.

    Args:
        adapter: of the model.
        found: what discovery says of the backbone.
        images: blank, ``(1, C, H, W)`` as the model receives them.
    """

    def __init__(self, adapter: ModelAdapter, found: SubsamplingMap, images: Tensor) -> None:
        self._adapter = adapter
        self._images = images
        self._levels = adapter.backbone_patch.noise_levels(found.shapes)

    def run(self) -> None:
        """Compute logits.

        Raises:
            MMDiscardError: if the model does not run on images of that size.
        """
        try:
            context = self._adapter.default_context(self._images)
            self._logits = self._adapter.head(self._levels, self._images, context)
        except (RuntimeError, AssertionError, IndexError) as error:
            raise MMDiscardError(
                f'the model does not run on an image of {tuple(self._images.shape[2:])}: {error}; '
                'if another size would do, set `input_size` in `subsampling`'
            ) from error

    def merge_target(self, geometry: Geometry, aggregator: Aggregator) -> MergeTarget:
        """Shapes of the tensors that the aggregator merges."""
        adapter = self._adapter
        if aggregator.stage.head_after:
            merged, read = self._levels, adapter.levels_read(self._levels, self._images)
        else:
            merged, read = (self._logits,), (True,)
        size, groups = tuple(self._images.shape[2:]), geometry.space.groups
        channels = [tensor.shape[1] for tensor in merged]
        return MergeTarget(
            geometry=geometry,
            shapes=tuple(tuple(tensor.shape[1:]) for tensor in merged),
            read=read,
            fingerprint=Fingerprint.of(adapter.model, adapter.backbone, groups, size, channels),
        )


def _subsampling_options(
    options: Mapping[str, Any],
) -> tuple[Any, tuple[int, int], int | None]:
    """The groups to search, and the size and the number of channels to trace with."""
    if not isinstance(options, Mapping):
        raise MMDiscardError(
            f"subsampling has to be a dict, such as dict(groups='inner'); got {options!r}"
        )
    options = dict(options)
    groups = options.pop('groups', 'inner')
    input_size = options.pop('input_size', (224, 224))
    in_channels = options.pop('in_channels', None)
    if options:
        raise MMDiscardError(
            f'subsampling has no option {", ".join(map(repr, options))}; it takes groups, '
            'input_size, in_channels'
        )
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 2 or not all(isinstance(length, int) and length > 0 for length in size):
        raise MMDiscardError(f'input_size has to be (height, width) in pixels; got {input_size!r}')
    if not (in_channels is None or isinstance(in_channels, int) and in_channels > 0):
        raise MMDiscardError(f'in_channels has to be a number of channels; got {in_channels!r}')
    return groups, size, in_channels
