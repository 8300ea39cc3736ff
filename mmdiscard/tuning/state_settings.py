"""Settings of states to compare, each attached to a copy of the model that shares its weights."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn

from ..errors import MMDiscardError
from ..models import Ensemble, adapter_class, attach, auto_settings, unwrap
from ..search import KnownStates
from ..utils import report
from .procedures import PLAIN

CONFIG = "the config's states"
Groups = str | list[str | int]


@dataclass(frozen=True)
class StateSetting:
    """States as a `SubsamplingSearchHook` takes them.

    Attributes:
        name: for tables.
        options: of the hook; of `attach` too.
        optional: whether it is left out where it does not fit the model.
    """

    name: str
    options: Mapping[str, Any]
    optional: bool = False

    @property
    def in_windows(self) -> bool:
        """Whether states are computed in unsure windows alone."""
        return self.options.get('where') is not None


@dataclass(frozen=True)
class PreparedModel:
    """A model that predicts with a setting of states.

    Attributes:
        model: attached, or plain.
        setting: the states; None for the plain model.
        cost: predicted, in plain forwards.
    """

    model: nn.Module
    setting: StateSetting | None = None
    cost: float = 1.0


def spread_settings(
    model: nn.Module, groups: Sequence[Groups], counts: Sequence[int], optional: bool
) -> list[StateSetting]:
    """Spread states of several groups and numbers, their logits averaged.

    Args:
        model: classifier or segmentor.
        groups: values of `groups`, as `attach` takes them.
        counts: numbers of states.
        optional: see `StateSetting`.
    """
    dense = adapter_class(unwrap(model)).dense
    return [
        StateSetting(f'{count} states of {_text(which)}', _options(which, count, dense), optional)
        for which in groups
        for count in counts
    ]


def window_settings(model: nn.Module, cost: float, flip: bool) -> list[StateSetting]:
    """States and mirror images in windows around the unsure parts of a segmentor's images.

    Args:
        model: classifier or segmentor.
        cost: of either in plain forwards, at most.
        flip: whether mirror images are tried.
    """
    if not adapter_class(unwrap(model)).dense:
        return []
    kinds = [('2 states', 2, False), ('flip', 1, True), ('flipped state', 2, True)]
    return [
        StateSetting(
            f'{what} in unsure windows',
            _options('auto', count, dense=True) | dict(where=dict(cost=cost, flip=mirrored)),
            optional=True,
        )
        for what, count, mirrored in kinds[: 3 if flip else 1]
    ]


def _options(groups: Groups, count: int, dense: bool) -> dict[str, Any]:
    """Spread states of groups, their logits averaged."""
    return dict(
        subsampling=dict(groups=groups),
        search=dict(type='SpreadStates', budget=count),
        aggregator=auto_settings.aggregator(dense),
    )


def prepare_models(model: nn.Module, settings: Sequence[StateSetting]) -> dict[str, PreparedModel]:
    """Models by name of a setting, the plain one first; settings of equal states only once.

    Each is attached to a copy of the model, which stays plain.

    Raises:
        MMDiscardError: names the setting that does not fit the model, unless it is optional.
    """
    model = unwrap(model)
    prepared = {PLAIN: PreparedModel(model)}
    seen = set()
    for setting in settings:
        own = shared_copy(model)
        try:
            ensemble = attach(own, **setting.options)
        except MMDiscardError as error:
            if not setting.optional:
                raise MMDiscardError(f'{setting.name}: {error}') from error
            report(f'{setting.name}: left out, {error}')
            continue
        states = _states(ensemble)
        if ensemble.pipeline.merges and (states is None or states not in seen):
            seen.add(states)
            prepared[setting.name] = PreparedModel(own, setting, _cost(ensemble))
    return prepared


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of a model's modules that shares its parameters and buffers."""
    tensors = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _states(ensemble: Ensemble) -> Any:
    """Groups, windows and states, to be compared; None where images differ in theirs."""
    if not ensemble.search.same_for_all:
        return None
    names = tuple(group.name for group in ensemble.groups)
    where = ensemble.windows and ensemble.windows.where
    return names, where, tuple(map(tuple, ensemble.pipeline.known_states.tolist()))


def _cost(ensemble: Ensemble) -> float:
    """In plain forwards; of a search that images end differently, the most it can be."""
    if ensemble.windows is not None:
        return ensemble.windows.cost(ensemble.input_size)
    if isinstance(ensemble.search, KnownStates):
        return float(ensemble.prices.of(ensemble.pipeline.known_states.tolist()))
    return float(ensemble.budget)


def _text(groups: Groups) -> str:
    if isinstance(groups, str):
        return f'{groups} groups'
    names = {'-1': 'the deepest group', '0': 'the first group', 'image': 'the image'}
    listed = [str(one) for one in groups]
    return names.get(listed[0], listed[0]) if len(listed) == 1 else f'groups {", ".join(listed)}'
