"""Putting an ensemble into a built model, with every mistake met before an image is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..aggregation import Aggregator, Geometry, MergeTarget
from ..errors import MMDiscardError, UnsearchableModelError
from ..execution import (
    DEFAULT_CACHE_BYTES,
    Levels,
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
    SubsamplingGroup,
    SubsamplingMap,
    image_map,
    is_image,
    map_subsampling,
    select_groups,
)
from ..subsampling.backbone import blank_image, noise_image, plausible_channels, undisturbed
from ..subsampling.image_group import DEFAULT_PIXELS, IMAGE
from . import auto_settings
from .adapters import ATTACHED, ModelAdapter
from .auto_settings import AUTO, choose_groups
from .ensemble import Ensemble
from .kept_attributes import kept_attributes
from .pipeline import Pipeline
from .self_test import SelfTest
from .uncertainty import check_wrappers, store_uncertainty
from .unsure_windows import UnsureWindows
from .wrappers import adapter_class, normalised_channels, unwrap

PAPER_SEARCH = dict(type='GreedySearch', budget=10)


def attach(
    model: Any,
    subsampling: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | Search | None = None,
    aggregator: Mapping[str, Any] | Aggregator | None = None,
    max_rows: int | None = None,
    max_cache_bytes: int = DEFAULT_CACHE_BYTES,
    self_test: bool = True,
    where: str | Mapping[str, Any] | None = None,
    uncertainty: bool = False,
) -> Ensemble:
    """Let a model predict with activations that its subsampling layers discard.

    From now on ``predict``, ``test_step`` and inferencers of the model merge several states.
    Training, ``extract_feat`` and the tensor mode stay plain.

    Args:
        model: a built MMPretrain classifier or MMSegmentation segmentor, or something around one: a
            TTA model, a distributed wrapper, an inferencer.
        subsampling: ``groups`` (``'auto'``, ``'all'``, ``'inner'`` or a list of names, positions,
            the image, ``'image'`` or ``dict(image=PIXELS)``, and groups by hand,
            ``dict(members=[...])``), ``input_size`` (``(H, W)`` to trace with; default 224 x 224)
            and ``in_channels`` (of the images; found out by default). Groups are ``'auto'`` where
            nothing else is set: one group by the kind of the model, or the image where its backbone
            cannot be searched; ``'inner'`` where a search or an aggregator is set.
        search: config of a search; by default two spread states for ``groups='auto'``, for the
            image alone and with ``where``, else ``GreedySearch`` with budget 10.
        aggregator: config of an aggregator; by default the mean of logits for ``groups='auto'``,
            for the image alone and for segmentors (aligned exactly), else the paper's entropy
            weights on features.
        max_rows: at most so many rows (image times state) are in flight at once; default the batch
            size.
        max_cache_bytes: what is kept of earlier states for later ones takes at most so much memory;
            beyond it they are computed again.
        self_test: whether to check what mmdiscard assumes of the model, on noise of the size to
            trace with; takes three to five forwards of one image.
        where: of segmentors, ``'unsure'`` to compute states besides the default one only in windows
            around the unsure parts of each image; or a dict of ``size`` (``(H, W)`` of a window, in
            pixels), ``halo``, ``flip`` (mirror images of windows too) and either ``share`` (of the
            area of an image) or ``cost`` (in plain forwards), see docs/unsure-regions.md. None for
            the whole image.
        uncertainty: whether to store, beside each prediction, how sure it is: ``confidence``, the
            probability of what is predicted, and ``disagreement`` of the states in bits, see
            `Disagreement`. In segmentors both are `PixelData` of ``(1, H, W)`` at the original
            image's size, in classifiers ``(1,)``.

    Raises:
        MMDiscardError: if anything does not fit: unknown names, a bad budget, an aggregator that
            the model cannot use, an unsupported model, a model that is attached already.
    """
    if uncertainty:
        check_wrappers(model)
    model = unwrap(model)
    adapter_type = adapter_class(model)
    if getattr(model, ATTACHED, None) is not None:
        raise MMDiscardError(
            'mmdiscard is attached to this model already; call `detach()` on that ensemble first'
        )
    nothing_set = search is None and aggregator is None
    options = _Options.of(subsampling or {}, AUTO if nothing_set else 'inner')
    auto = options.groups == AUTO
    one_group = auto or options.image_alone
    dense = adapter_type.dense
    if not isinstance(search, Search):
        known = one_group or where is not None
        search = build(SEARCHES, search or (auto_settings.SEARCH if known else PAPER_SEARCH))
    default = auto_settings.aggregator(dense) if one_group else adapter_type.default_aggregator
    aggregator = build(AGGREGATORS, aggregator or default)
    aggregator.check(dense)
    parts = _Parts(
        search=search,
        aggregator=aggregator,
        limits=MemoryLimits(max_rows, max_cache_bytes),
        self_test=self_test,
        where=None if where is None else UnsureWindows.parse(where),
        uncertainty=uncertainty,
    )
    put_in = partial(_attach, model, adapter_type, parts)
    return _attach_auto(put_in, options, dense) if auto else put_in(options)


def _attach_auto(
    put_in: Callable[['_Options'], Ensemble], options: '_Options', dense: bool
) -> Ensemble:
    """Search the group that suits the model, or the image where none can be searched."""
    try:
        ensemble, why = put_in(options), auto_settings.REASONS[dense]
    except UnsearchableModelError as error:
        try:
            ensemble = put_in(replace(options, groups=[IMAGE]))
        except UnsearchableModelError:
            raise error from None
        # Errors go on with cures, which nobody needs here.
        reason = str(error).partition('; ')[0]
        why = f'displaced by {DEFAULT_PIXELS} pixels, because {reason}'
    names = ', '.join(group.name for group in ensemble.groups)
    print_log(f"mmdiscard: groups='auto' searches {names}: {why}", 'current')
    return ensemble


@contextmanager
def _inside_of_model() -> Iterator[None]:
    """Context in which an error means that the backbone cannot be searched."""
    try:
        yield
    except MMDiscardError as error:
        raise UnsearchableModelError(*error.args) from error


@dataclass(frozen=True)
class _Parts:
    """The arguments of `attach` besides model and `subsampling`, built and checked."""

    search: Search
    aggregator: Aggregator
    limits: MemoryLimits
    self_test: bool
    where: UnsureWindows | None
    uncertainty: bool


def _attach(
    model: nn.Module, adapter_type: type[ModelAdapter], parts: _Parts, options: '_Options'
) -> Ensemble:
    """Put an ensemble into a model."""
    search, aggregator = parts.search, parts.aggregator
    _check_weights(model)
    with (
        torch.inference_mode(False),
        kept_attributes(model),
        undisturbed(model) as restore,
        ExitStack() as undo,
    ):
        adapter = adapter_type(model)
        undo.callback(adapter.uninstall)
        found, groups = _searched(adapter, aggregator, options)
        search.prepare(
            StateSpace(groups), Fingerprint.of(model, adapter.backbone, groups, found.input_size)
        )
        hooks = StateHooks(adapter.backbone, groups)
        undo.callback(hooks.remove)
        geometry = Geometry(hooks.space, found.strides)
        sample, found = found.sample, replace(found, sample=None)  # not to be kept in memory
        levels = adapter.backbone_patch.channels_first(sample[1])
        images = _model_image(adapter, found)
        test = (
            SelfTest(adapter, images, found.small_size, sample, restore)
            if parts.self_test
            else None
        )
        if test is not None:
            test.observe()
        with _inside_of_model():
            entries = _find_reentry_points(adapter, hooks, found)
        probe = _HeadProbe(adapter, levels, images)
        cost_model = measure_cost(found, groups, probe.run)
        aggregator.prepare(lambda: probe.merge_target(geometry, aggregator))
        features = CheckedSizes(adapter.features, found)
        executor = PrefixExecutor(features, hooks, cost_model, entries, parts.limits)
        pipeline = Pipeline(
            adapter,
            executor,
            search,
            aggregator,
            geometry,
            cost_model,
            parts.uncertainty,
            mirrors=False if parts.where is None else parts.where.flip,
        )
        ensemble = Ensemble(pipeline, found.input_size, parts.where)
        adapter.install(ensemble.predict)
        if test is not None:
            test.check(pipeline)
        if parts.uncertainty:
            store_uncertainty(ensemble)
        adapter.keep_parts(groups)
        vars(model)[ATTACHED] = ensemble
        undo.pop_all()
    return ensemble


def _check_weights(model: nn.Module) -> None:
    """Check that a model can be run, and its buffers be put back afterwards.

    Raises:
        MMDiscardError: if not.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise MMDiscardError(
            f'{type(model).__name__} has weights on the meta device, which hold no numbers; load '
            'its checkpoint first'
        )
    if any(tensor.is_inference() for tensor in tensors):
        raise MMDiscardError(
            f'{type(model).__name__} was built within torch.inference_mode, and PyTorch keeps such '
            'tensors from being changed; build it outside'
        )


def _searched(
    adapter: ModelAdapter, aggregator: Aggregator, options: '_Options'
) -> tuple[SubsamplingMap, Sequence[SubsamplingGroup]]:
    """The searched module, its subsampling map and its groups."""
    expected = normalised_channels(adapter.model)
    if options.image_alone:
        if aggregator.stage.head_after:
            raise MMDiscardError(
                "groups=['image'] has predictions to merge and no features; set on='logits' in the "
                'aggregator'
            )
        guesses = plausible_channels(adapter.backbone, expected)
        adapter.take_whole()
        channels = options.in_channels or _channels_of(adapter, options.input_size, guesses)
        found = image_map(noise_image(adapter.backbone, options.input_size, channels))
    else:
        with _inside_of_model():
            adapter.check_inside()
            found = map_subsampling(
                adapter.backbone, options.input_size, options.in_channels, expected
            )
    adapter.backbone_patch.channels_last = found.channels_last
    if options.groups == AUTO:
        with _inside_of_model():
            return found, choose_groups(found, adapter)
    return found, select_groups(found, options.groups, adapter.backbone)


def _channels_of(adapter: ModelAdapter, input_size: tuple[int, int], guesses: Sequence[int]) -> int:
    """The first number of channels with which a model that is taken whole runs, else the first."""
    images = ((c, blank_image(adapter.backbone, input_size, c)) for c in guesses)
    return next((c for c, image in images if adapter.accepts(image, c)), guesses[0])


def _model_image(adapter: ModelAdapter, found: SubsamplingMap) -> Tensor:
    """A blank image as the model receives it, which may have more channels than its backbone's."""
    if adapter.whole:  # then the two are the same
        return blank_image(adapter.backbone, found.input_size, found.in_channels)
    backbone, size = adapter.backbone, found.input_size
    likely = (normalised_channels(adapter.model), found.in_channels)
    channels = [c for c in (*likely, *plausible_channels(backbone)) if c]
    images = (blank_image(backbone, size, c) for c in dict.fromkeys(channels))
    accepted = (x for x in images if adapter.accepts(x, found.in_channels))
    return next(accepted, blank_image(backbone, size, channels[0]))


def _find_reentry_points(
    adapter: ModelAdapter, hooks: StateHooks, found: SubsamplingMap
) -> ReentryPoints:
    """Find where the backbone can be entered, on a small image: it is the same at any size.

    In front of groups that nothing comes before, to enter would save nothing.
    """
    groups = hooks.space.groups
    columns = [i for i, group in enumerate(groups) if found.macs_before(group)]
    images = [
        noise_image(adapter.backbone, found.small_size, found.in_channels, seed) for seed in (0, 1)
    ]
    return find_reentry_points(adapter.features, hooks, torch.cat(images), columns)


class _HeadProbe:
    """Runs the head of a model once, to learn what it costs and gives.

    To be used inside `undisturbed`, after the backbone ran at any size.
    """

    def __init__(self, adapter: ModelAdapter, levels: Levels, images: Tensor) -> None:
        self._adapter = adapter
        self._images = images
        self._levels = levels

    def run(self) -> None:
        """Compute logits, or raise `UnsearchableModelError`."""
        try:
            context = self._adapter.default_context(self._images)
            self._logits = self._adapter.head(self._levels, self._images, context)
        except (RuntimeError, AssertionError, IndexError) as error:
            raise UnsearchableModelError(
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


@dataclass(frozen=True)
class _Options:
    """The option `subsampling`, checked; ``in_channels`` is None if not known."""

    groups: Any
    input_size: tuple[int, int]
    in_channels: int | None

    @property
    def image_alone(self) -> bool:
        """Whether the image is the only group."""
        keys = self.groups
        return isinstance(keys, list | tuple) and len(keys) == 1 and is_image(keys[0])

    @classmethod
    def of(cls, options: Mapping[str, Any], default_groups: str) -> '_Options':
        """Read and check the option."""
        if not isinstance(options, Mapping):
            raise MMDiscardError(
                f"subsampling has to be a dict, such as dict(groups='inner'); got {options!r}"
            )
        unknown = [name for name in options if name not in ('groups', 'input_size', 'in_channels')]
        if unknown:
            raise MMDiscardError(
                f'subsampling has no option {", ".join(map(repr, unknown))}; it takes groups, '
                'input_size, in_channels'
            )
        given = {name: value for name, value in options.items() if value is not None}
        side = given.get('input_size', (224, 224))
        size = (side, side) if isinstance(side, int) else tuple(side)
        if len(size) != 2 or not all(isinstance(length, int) and length > 0 for length in size):
            raise MMDiscardError(f'input_size has to be (height, width) in pixels; got {side!r}')
        channels = given.get('in_channels')
        if not (channels is None or isinstance(channels, int) and channels > 0):
            raise MMDiscardError(f'in_channels has to be a number of channels; got {channels!r}')
        return cls(given.get('groups', default_groups), size, channels)
