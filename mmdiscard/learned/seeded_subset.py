"""A random part of a data set."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.logging import print_log

from ..errors import MMDiscardError
from ..registry import DATASETS


@DATASETS.register_module()
class SeededSubset:
    """Images of another data set, drawn at random and always the same for the same seed.

    Args:
        dataset: the data set, or its config.
        size: how many images; all if there are fewer.
        seed: any integer >= 0.
        at_least: refuse to be smaller than this.

    Attributes:
        indices: the images, as numbers in the other data set, ascending.

    Raises:
        MMDiscardError: if ``size`` is below 1, or too few images are left.
    """

    def __init__(
        self, dataset: Mapping[str, Any] | Any, size: int, seed: int = 0, at_least: int = 1
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise MMDiscardError(f'a subset needs a size of at least 1 image; got {size!r}')
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        self.full_init()
        count = len(self.dataset)
        if min(size, count) < at_least:
            raise MMDiscardError(
                f'{min(size, count)} training images (of {count}) do not fill one batch of '
                f'{at_least}; train on more images, or with a smaller batch'
            )
        if size > count:
            print_log(f'mmdiscard: the training set has {count} images, all are used', 'current')
        order = np.random.default_rng(seed).permutation(count)
        self.indices = np.sort(order[:size])

    @property
    def metainfo(self) -> dict[str, Any]:
        """Of the other data set."""
        return getattr(self.dataset, 'metainfo', {})

    def full_init(self) -> None:
        """Load annotations, where the data set puts that off."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]
