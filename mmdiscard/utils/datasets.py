"""Data sets inside wrappers, and random subsets that are the same for the same seed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.config import ConfigDict

# Wrappers that give an image several times, or several images as one.
REPEATING = ('RepeatDataset', 'ClassBalancedDataset', 'MultiImageMixDataset')


def innermost_datasets(dataset: Any) -> list[Any]:
    """The data sets that read images, inside wrappers such as ``ConcatDataset``; in order.

    Args:
        dataset: a data set or its config. Of a config the innermost ones are returned themselves,
            not copies, so that their settings can be changed.
    """
    several, one = _inner(dataset, 'datasets'), _inner(dataset, 'dataset')
    if several is not None:
        return [innermost for inner in several for innermost in innermost_datasets(inner)]
    return [dataset] if one is None else innermost_datasets(one)


def without_repeats(dataset: Mapping[str, Any]) -> ConfigDict:
    """Copy of a data set's config without the wrappers that repeat or mix images.

    ``RepeatDataset``, ``ClassBalancedDataset`` and ``MultiImageMixDataset`` are replaced by what
    they wrap; all other wrappers stay.
    """
    kind = dataset.get('type')
    if getattr(kind, '__name__', str(kind)).rpartition('.')[2] in REPEATING:
        return without_repeats(dataset['dataset'])
    copy = ConfigDict(dataset).copy()
    if 'datasets' in copy:
        copy.datasets = [without_repeats(inner) for inner in copy.datasets]
    elif 'dataset' in copy:
        copy.dataset = without_repeats(copy.dataset)
    return copy


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
