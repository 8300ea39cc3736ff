"""Putting an ensemble into a built model, with every mistake met before an image is."""

from collections.abc import Mapping
from typing import Any

from ..aggregation import Aggregator
from ..errors import MMDiscardError
from ..execution import DEFAULT_CACHE_BYTES, MemoryLimits
from ..registry import AGGREGATORS, SEARCHES, build
from ..search import Search
from ..subsampling import Fingerprint, StateSpace, map_subsampling, select_groups
from .adapters import ATTACHED, adapter_class, unwrap
from .ensemble import Ensemble


def attach(
    model: Any,
    subsampling: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | Search | None = None,
    aggregator: Mapping[str, Any] | Aggregator | None = None,
    max_rows: int | None = None,
    max_cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> Ensemble:
    """Let a model predict with activations that its subsampling layers discard.

    From now on ``predict``, ``test_step`` and inferencers of the model merge several states.
    Training, ``extract_feat`` and the tensor mode stay plain.

    Args:
        model: a built MMPretrain classifier or MMSegmentation segmentor, or something around one: a
            TTA model, a distributed wrapper, an inferencer.
        subsampling: ``groups`` (``'all'``, ``'inner'`` or a list of names, positions and groups by
            hand, ``dict(members=[...])``; default ``'inner'``) and ``input_size`` (``(H, W)`` to
            trace with; default 224 x 224).
        search: config of a search; default ``GreedySearch`` with budget 10.
        aggregator: config of an aggregator; default: the paper's entropy weights on features
            for classifiers, the mean of exactly aligned logits for segmentors.
        max_rows: at most so many rows (image times state) are in flight at once; default the batch
            size.
        max_cache_bytes: what is kept of earlier states for later ones takes at most so much memory;
            beyond it they are computed again.

    Raises:
        MMDiscardError: if anything does not fit: unknown names, a bad budget, an aggregator that
            the model cannot use, an unsupported model, a model that is attached already.
    """
    model = unwrap(model)
    adapter = adapter_class(model)
    if hasattr(model, ATTACHED):
        raise MMDiscardError(
            'mmdiscard is attached to this model already; call `detach()` on that ensemble first'
        )
    if not isinstance(search, Search):
        search = build(SEARCHES, search or dict(type='GreedySearch', budget=10))
    aggregator = build(AGGREGATORS, aggregator or adapter.default_aggregator)
    aggregator.check(adapter.dense)
    limits = MemoryLimits(max_rows, max_cache_bytes)
    which, input_size = _subsampling_options(subsampling or {})
    backbone = adapter.backbone_of(model)
    found = map_subsampling(backbone, input_size)
    groups = select_groups(found, which, backbone)
    search.prepare(StateSpace(groups), Fingerprint.of(model, backbone, groups, found.input_size))
    return Ensemble(adapter(model), found, groups, search, aggregator, limits)


def _subsampling_options(options: Mapping[str, Any]) -> tuple[Any, tuple[int, int]]:
    """The groups to search and the size to trace with."""
    if not isinstance(options, Mapping):
        raise MMDiscardError(
            f"subsampling has to be a dict, such as dict(groups='inner'); got {options!r}"
        )
    options = dict(options)
    groups = options.pop('groups', 'inner')
    input_size = options.pop('input_size', (224, 224))
    if options:
        raise MMDiscardError(
            f'subsampling has no option {", ".join(map(repr, options))}; it takes groups, '
            'input_size'
        )
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 2 or not all(isinstance(length, int) and length > 0 for length in size):
        raise MMDiscardError(f'input_size has to be (height, width) in pixels; got {input_size!r}')
    return groups, size
