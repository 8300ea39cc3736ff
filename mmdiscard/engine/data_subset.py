"""Which labelled images something is calibrated on: never those that results are reported on."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Subset

from ..errors import MMDiscardError

SPLITS = ('val', 'train')
# What a data set's config says besides which images it holds.
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
            MMDiscardError: if not.
        """
        if self.images < 1:
            raise MMDiscardError(f'--images is a number of at least 1; got {self.images}')
        for name in {'val_dataloader', f'{self.split}_dataloader'}:
            if cfg.get(name) is None:
                raise MMDiscardError(f'the config has no {name}, which --split {self.split} needs')
        mine, test = self.dataset(cfg), cfg.get('test_dataloader')
        if test is not None and _images_of(mine) == _images_of(_inner(test.dataset)):
            raise MMDiscardError(
                f'the {self.split} split of the config is its test split, and what is chosen on '
                'test images says nothing of others; use --split '
                f'{"train" if self.split == "val" else "val"}'
            )

    def dataset(self, cfg: Config) -> dict[str, Any]:
        """Config of the data set, with the pipeline of validation."""
        dataset = copy.deepcopy(_inner(cfg[f'{self.split}_dataloader'].dataset))
        dataset.pipeline = copy.deepcopy(_inner(cfg.val_dataloader.dataset).pipeline)
        return dataset

    def loader(self, cfg: Config) -> tuple[DataLoader, int]:
        """Batches of this process's share of the images, and how many all processes have.

        No image is read twice.
        """
        dataset = DATASETS.build(self.dataset(cfg))
        drawn = np.random.default_rng(self.seed).permutation(len(dataset))[: self.images]
        loader = copy.deepcopy(cfg.val_dataloader)
        loader.pop('batch_sampler', None)
        loader.sampler = dict(type='DefaultSampler', shuffle=False, round_up=False)
        loader.dataset = None  # a data set is not a thing to keep in a config
        subset = Subset(dataset, sorted(drawn.tolist()))
        return Runner.build_dataloader(dict(loader, dataset=subset)), len(subset)

    def describe(self) -> dict[str, Any]:
        """For the notes in a file."""
        return dict(split=self.split, images=self.images, seed=self.seed)


def _inner(dataset: Any) -> Any:
    """The data set inside wrappers such as ``RepeatDataset``."""
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    if 'pipeline' not in dataset:
        raise MMDiscardError(
            f'a {dataset.get("type")} has no pipeline of its own, so what it reads is not known; '
            'name a single data set in the config'
        )
    return dataset


def _images_of(dataset: Any) -> dict[str, Any]:
    return {key: value for key, value in dataset.items() if key not in NOT_THE_IMAGES}
