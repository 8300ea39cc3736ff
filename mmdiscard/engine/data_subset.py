"""Labelled images of a config for calibration and fitting, never those of its test split."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import MMDiscardError
from ..utils import MIXING, REPEATING, draw, innermost_datasets, without_wrappers

SPLITS = ('val', 'train')
# Keys of a data set's config that do not change which images it has.
NOT_THE_IMAGES = ('pipeline', 'test_mode', 'lazy_init', 'max_refetch', 'serialize_data')


@dataclass(frozen=True)
class CalibrationImages:
    """Images drawn from a split of a config.

    Attributes:
        split: ``'val'`` or ``'train'``; training images are read as in validation.
        images: how many, drawn without replacement; all if there are fewer.
        seed: of the draw.
    """

    split: str = 'val'
    images: int = 300
    seed: int = 0

    def check(self, cfg: Config) -> None:
        """Check that a config has such images and does not test on them.

        Raises:
            MMDiscardError: if it has none, tests on them, or has no pipeline to read them with.
        """
        if self.images < 1:
            raise MMDiscardError(f'--images has to be at least 1; got {self.images}')
        for name in {'val_dataloader', f'{self.split}_dataloader'}:
            if cfg.get(name) is None:
                raise MMDiscardError(f'the config has no {name}, which --split {self.split} needs')
        for inner in innermost_datasets(cfg.val_dataloader.dataset):
            if 'pipeline' not in inner:
                raise MMDiscardError(
                    f'the {inner.get("type")} of val_dataloader has no pipeline, which says how '
                    'images are read; give it one'
                )
        test = cfg.get('test_dataloader')
        if test is not None and _share_images(self.dataset(cfg), test.dataset):
            raise MMDiscardError(
                f'the {self.split} split of the config is its test split or has images of it, and '
                'what is chosen on test images says nothing about others; use --split '
                f'{"train" if self.split == "val" else "val"}'
            )

    def dataset(self, cfg: Config) -> ConfigDict:
        """Config of the data set that the images are drawn from, with the pipeline of validation.

        Wrappers that repeat or mix images are left out, others such as ``ConcatDataset`` stay.
        """
        wrapped = cfg[f'{self.split}_dataloader'].dataset
        dataset = without_wrappers(wrapped, (*REPEATING, *MIXING))
        if self.split != 'val':
            pipeline = innermost_datasets(cfg.val_dataloader.dataset)[0].pipeline
            for inner in innermost_datasets(dataset):
                inner.pipeline = copy.deepcopy(pipeline)
        return dataset

    def drawn(self, cfg: Config) -> Subset:
        """The images."""
        dataset = DATASETS.build(self.dataset(cfg))
        return Subset(dataset, draw(len(dataset), self.images, self.seed))

    def loader(self, cfg: Config) -> tuple[DataLoader, int]:
        """Batches of this process's share of the images, and how many all processes have.

        No image is read twice.
        """
        drawn = self.drawn(cfg)
        return ordered_loader(cfg, drawn), len(drawn)

    def describe(self) -> dict[str, Any]:
        """For the notes in a file."""
        return dict(split=self.split, images=self.images, seed=self.seed)


def ordered_loader(cfg: Config, dataset: Dataset) -> DataLoader:
    """Batches of a data set in order, with the other settings of ``val_dataloader``."""
    loader = copy.deepcopy(cfg.val_dataloader)
    loader.pop('batch_sampler', None)
    loader.sampler = dict(type='DefaultSampler', shuffle=False, round_up=False)
    loader.dataset = None  # a built data set cannot be kept in a config
    return Runner.build_dataloader(dict(loader, dataset=dataset))


def _share_images(dataset: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    others = [_images_of(inner) for inner in innermost_datasets(other)]
    return any(_images_of(inner) in others for inner in innermost_datasets(dataset))


def _images_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dataset.items() if key not in NOT_THE_IMAGES}
