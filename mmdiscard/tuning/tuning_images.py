"""Labelled images to choose on, read in views made from the config's test pipeline."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config, ConfigDict

from ..engine.data_subset import CalibrationImages
from ..errors import MMDiscardError
from ..utils import innermost_datasets, type_name

FEWEST = 10  # images that an interval can be computed of
LABELS = 'LoadAnnotations'


@dataclass(frozen=True)
class TuningImages(CalibrationImages):
    """Images drawn from a split of a config, in several sizes and with mirror images.

    Attributes:
        sizes: relative to the size that the config tests at.
        flip: whether every size is also read as mirror image.
    """

    images: int = 200
    sizes: tuple[float, ...] = (1.0,)
    flip: bool = False

    def check(self, cfg: Config) -> None:
        """Raise `MMDiscardError` unless a config has enough such images, and tests on others."""
        if self.images < FEWEST:
            raise MMDiscardError(f'--images is at least {FEWEST}; got {self.images}')
        super().check(cfg)

    def dataset(self, cfg: Config) -> ConfigDict:
        """Config of the data set that the images are drawn from, with the pipeline of views."""
        dataset = super().dataset(cfg)
        for inner in innermost_datasets(dataset):
            inner.pipeline = views_pipeline(test_pipeline(cfg), self.sizes, self.flip)
            inner.test_mode = True
        return dataset


def test_pipeline(cfg: Config) -> list[dict[str, Any]]:
    """The pipeline that a config tests with; without a test set, the one it validates with.

    Raises:
        MMDiscardError: if it has none.
    """
    loader = cfg.get('test_dataloader') or cfg.val_dataloader
    pipeline = innermost_datasets(loader.dataset)[0].get('pipeline')
    if not pipeline:
        raise MMDiscardError('the test set of the config has no pipeline that views are made from')
    return pipeline


def views_pipeline(
    pipeline: Sequence[Mapping[str, Any]], sizes: Sequence[float], flip: bool
) -> list[dict[str, Any]]:
    """A test pipeline that makes several views, by MM's `TestTimeAug`.

    Images are resized and flipped where the pipeline has finished with them: before labels are
    loaded, which belong to the image as it is, or else before the packing.

    Args:
        pipeline: of one view.
        sizes: relative to the size of that view.
        flip: whether every size is also made as mirror image.
    """
    pipeline = copy.deepcopy(list(pipeline))
    names = [type_name(step) for step in pipeline]
    last = names.index(LABELS) if LABELS in names else len(pipeline) - 1
    steps = [[dict(type='mmcv.Resize', scale_factor=size, keep_ratio=True) for size in sizes]]
    if tuple(sizes) == (1.0,):
        steps = []
    if flip:
        steps.append([dict(type='mmcv.RandomFlip', prob=prob) for prob in (0.0, 1.0)])
    steps += [[step] for step in pipeline[last:]]
    return [*pipeline[:last], dict(type='TestTimeAug', transforms=steps)]
