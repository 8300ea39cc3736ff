"""Registries of mmdiscard, scope ``mmdiscard``.

``HOOKS``, ``MODELS``, ``TRANSFORMS`` and ``DATASETS`` are children of MMEngine's, so that a config
of any MM package can name ``mmdiscard.SubsamplingSearchHook`` or ``mmdiscard.DiscardSegTTA``. What
only mmdiscard knows (how to search, score, align, aggregate, adapt) has registries of its own;
register a class there and name it in a config.
"""

from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from .errors import MMDiscardError

SCOPE = 'mmdiscard'

HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope=SCOPE, locations=['mmdiscard.engine', 'mmdiscard.learned']
)
TRANSFORMS = Registry(
    'transform', parent=MMENGINE_TRANSFORMS, scope=SCOPE, locations=['mmdiscard.tta']
)
MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope=SCOPE, locations=['mmdiscard.tta', 'mmdiscard.learned']
)
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope=SCOPE, locations=['mmdiscard.learned']
)

SEARCHES = Registry('search', scope=SCOPE, locations=['mmdiscard.search'])
CRITERIA = Registry('criterion', scope=SCOPE, locations=['mmdiscard.search'])
GATES = Registry('gate', scope=SCOPE, locations=['mmdiscard.search'])
AGGREGATORS = Registry(
    'aggregator', scope=SCOPE, locations=['mmdiscard.aggregation', 'mmdiscard.learned']
)
ALIGNMENTS = Registry('alignment', scope=SCOPE, locations=['mmdiscard.aggregation'])
MERGERS = Registry('merger', scope=SCOPE, locations=['mmdiscard.tta'])
POLICIES = Registry('TTA policy', scope=SCOPE, locations=['mmdiscard.tta'])
ADAPTERS = Registry('model adapter', scope=SCOPE, locations=['mmdiscard.models'])


def lookup(registry: Registry, name: Any) -> type:
    """The class registered as ``name``.

    Raises:
        MMDiscardError: if nothing has that name; the message lists what there is.
    """
    registry.import_from_location()
    known = registry.module_dict
    short = name.removeprefix(f'{SCOPE}.') if isinstance(name, str) else name
    if short not in known:
        raise MMDiscardError(
            f'unknown {registry.name} {name!r}; choose one of {", ".join(sorted(known))}'
        )
    return known[short]


def build(registry: Registry, config: Any) -> Any:
    """Build what ``config`` describes; what is built already is returned.

    Raises:
        MMDiscardError: if it is neither, if ``type`` is missing or unknown, or if its arguments do
            not fit the class.
    """
    if isinstance(config, tuple(registry.module_dict.values())):
        return config
    if not isinstance(config, dict) or 'type' not in config:
        raise MMDiscardError(
            f'the {registry.name} has to be a dict with a `type`, such as '
            f"dict(type='{next(iter(registry.module_dict), '...')}'); got {config!r}"
        )
    arguments = dict(config)
    cls = lookup(registry, arguments.pop('type'))
    try:
        return cls(**arguments)
    except TypeError as error:
        raise MMDiscardError(f'{registry.name} {cls.__name__}: {error}') from error
