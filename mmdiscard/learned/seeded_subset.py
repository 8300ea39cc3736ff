"""A random subset of a data set."""

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch.utils.data import Subset

from ..errors import MMDiscardError
from ..registry import DATASETS
from ..utils import draw, is_whole


@DATASETS.register_module()
class SeededSubset(Subset):
    """Random images of another data set, the same ones for the same seed.

    The other data set may be a wrapper such as ``ConcatDataset``.

    Args:
        dataset: the data set, or its config.
        size: number of images; all if there are fewer.
        seed: any integer >= 0.
        at_least: smallest number of images that is allowed.

    Attributes:
        indices: positions of the images in the other data set, ascending.

    Raises:
        MMDiscardError: if ``size`` is below 1, or there are fewer images than ``at_least``.
    """

    def __init__(
        self, dataset: Mapping[str, Any] | Any, size: int, seed: int = 0, at_least: int = 1
    ) -> None:
        if not is_whole(size):
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
        super().__init__(self.dataset, draw(count, size, seed))

    @property
    def metainfo(self) -> dict[str, Any]:
        """``metainfo`` of the other data set."""
        return getattr(self.dataset, 'metainfo', {})

    def full_init(self) -> None:
        """Load the annotations of a data set that was built with ``lazy_init=True``."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()
