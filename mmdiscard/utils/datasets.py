"""Data sets inside wrappers, and random subsets that are the same for the same seed."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import ConfigDict

#: wrappers that give images more than once
REPEATING = ('RepeatDataset', 'ClassBalancedDataset')
#: wrappers that mix several images, by a pipeline of their own
MIXING = ('MultiImageMixDataset',)


def type_name(config: Mapping[str, Any]) -> str:
    """Name of the class that a config describes by name or as a class, without scope or module."""
    kind = config.get('type')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def innermost_datasets(dataset: Any) -> list[Any]:
    """The data sets that read images, inside wrappers such as ``ConcatDataset``; in order.

    Takes a data set or its config; of a config the innermost ones are returned themselves, not
    copies, so that their settings can be changed.
    """
    several, one = _inner(dataset, 'datasets'), _inner(dataset, 'dataset')
    if several is not None:
        return [innermost for inner in several for innermost in innermost_datasets(inner)]
    return [dataset] if one is None else innermost_datasets(one)


def without_wrappers(dataset: Mapping[str, Any], types: Sequence[str]) -> ConfigDict:
    """Copy of a data set's config in which wrappers of some types are replaced by what they wrap.

    ``types`` are names such as `REPEATING`; all other wrappers stay.
    """
    if type_name(dataset) in types:
        return without_wrappers(dataset['dataset'], types)
    copied = copy.deepcopy(ConfigDict(dataset))
    if 'datasets' in copied:
        copied.datasets = [without_wrappers(inner, types) for inner in copied.datasets]
    elif 'dataset' in copied:
        copied.dataset = without_wrappers(copied.dataset, types)
    return copied


def draw(count: int, size: int, seed: int) -> list[int]:
    """Draw positions of images at random, without replacement.

    Args:
        count: how many images there are.
        size: how many to draw; all if there are fewer.
        seed: of the draw, at least 0.

    Returns:
        The positions, ascending.
    """
    return sorted(np.random.default_rng(seed).permutation(count)[:size].tolist())


def _inner(dataset: Any, name: str) -> Any:
    return dataset.get(name) if isinstance(dataset, Mapping) else getattr(dataset, name, None)
