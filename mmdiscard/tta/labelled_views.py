"""Views of labelled images, and what a model says of them, outside of a test loop."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ..engine.data_subset import CalibrationImages
from ..errors import MMDiscardError
from ..models import unwrap
from ..models.adapters import adapter_class
from ..utils import Progress
from .logit_cache import IGNORED, LogitCache
from .models import DiscardClsTTA, DiscardSegTTA, DiscardTTA
from .view_output import ViewOutput, split_views, view_names

Rows = Callable[[ViewOutput, int], tuple[Tensor, Tensor]]
TTA: Mapping[bool, type[DiscardTTA]] = {False: DiscardClsTTA, True: DiscardSegTTA}
FLUSH_EVERY = 20  # batches


@dataclass(frozen=True)
class LabelledViews(CalibrationImages):
    """Images drawn from a split of a config, in the views of its ``tta_pipeline``."""

    split: str = 'train'
    images: int = 2000

    def check(self, cfg: Config) -> None:
        """As `CalibrationImages.check`; and there have to be views.

        Raises:
            MMDiscardError: if not.
        """
        super().check(cfg)
        if not cfg.get('tta_pipeline'):
            raise MMDiscardError(
                'the config has no `tta_pipeline`, which says what the views are; inherit one of '
                'configs/_base_/tta'
            )

    def dataset(self, cfg: Config) -> dict[str, Any]:
        """Config of the data set, with the pipeline of views."""
        dataset = super().dataset(cfg)
        dataset.pipeline = copy.deepcopy(cfg.tta_pipeline)
        dataset.test_mode = True
        return dataset

    def drawn(self, cfg: Config) -> Subset:
        """The images."""
        dataset = DATASETS.build(self.dataset(cfg))
        drawn = np.random.default_rng(self.seed).permutation(len(dataset))[: self.images]
        return Subset(dataset, sorted(drawn.tolist()))


def loader_of(cfg: Config, dataset: Any, which: Sequence[int]) -> DataLoader:
    """Batches of some images of a data set, in order."""
    loader = copy.deepcopy(cfg.val_dataloader)
    loader.pop('batch_sampler', None)
    loader.sampler = dict(type='DefaultSampler', shuffle=False, round_up=False)
    loader.dataset = None  # a data set is not a thing to keep in a config
    return Runner.build_dataloader(dict(loader, dataset=Subset(dataset, list(which))))


def tta_model(model: nn.Module, merger: Mapping[str, Any] | None = None) -> DiscardTTA:
    """The TTA model of mmdiscard around a classifier or segmentor."""
    return TTA[adapter_class(unwrap(model)).dense](model, merger=merger)


# ------------------------------------------------------------------------------------------- rows
def image_row(output: ViewOutput, image: int) -> tuple[Tensor, Tensor]:
    """One row of a classified image: logits ``(1, K)`` and label ``(1,)``.

    Raises:
        MMDiscardError: if it has no label, or several.
    """
    label = output.sample.get('gt_label')
    if label is None or label.numel() != 1:
        raise MMDiscardError('mergers are fitted to images with exactly one label each')
    return output.logits()[None], label.reshape(1)


def pixel_rows(
    output: ViewOutput, image: int, pixels: int, ignored: int = 255
) -> tuple[Tensor, Tensor]:
    """Some pixels of a segmented image, the same for every view: ``(pixels, K)``, ``(pixels,)``.

    Raises:
        MMDiscardError: if it has no label map.
    """
    if 'gt_sem_seg' not in output.sample:
        raise MMDiscardError(
            'mergers are fitted to labelled images; add LoadAnnotations to tta_pipeline'
        )
    logits = output.logits().flatten(1)
    labels = output.sample.gt_sem_seg.data.flatten().long()
    generator = torch.Generator().manual_seed(image)
    chosen = torch.randint(len(labels), (pixels,), generator=generator).to(labels.device)
    labels = labels[chosen]
    return logits[:, chosen].T, labels.masked_fill(labels == ignored, IGNORED)


def rows_of(model: nn.Module, pixels: int) -> tuple[Rows, int]:
    """How rows are made of what a model says of an image, and how many."""
    model = unwrap(model)
    if not adapter_class(model).dense:
        return image_row, 1
    head = model.decode_head
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    ignored = getattr(head, 'ignore_index', 255)
    return partial(pixel_rows, pixels=pixels, ignored=ignored), pixels


@torch.no_grad()
def fill(cache: LogitCache, tta: DiscardTTA, cfg: Config, dataset: Subset, rows: Rows) -> None:
    """Put every image of ``dataset`` that is missing into the cache."""
    missing = cache.missing()
    if not missing:
        return
    loader = loader_of(cfg, dataset, missing)
    progress = Progress(len(loader), 'batches of views')
    left = iter(missing)
    for batch, data in enumerate(loader, 1):
        for image, logits, labels in _images(tta, data, left, rows):
            cache.begin(view_names(split_views(data)), logits.shape[-1])
            cache.write(image, logits, labels)
        if batch % FLUSH_EVERY == 0 or batch == len(loader):
            cache.flush()
        progress.step()


def _images(tta: DiscardTTA, data: Any, left: Any, rows: Rows) -> Any:
    """Position, logits ``(rows, V, K)`` and labels of every image of a batch."""
    logits: list[list[Tensor]] = []
    images: list[int] = []
    labels: list[Tensor] = []
    for _, outputs in tta.views(data):
        if not images:
            images = [next(left) for _ in outputs]
            logits = [[] for _ in outputs]
        made = [rows(output, image) for output, image in zip(outputs, images, strict=True)]
        labels = labels or [label for _, label in made]
        for own, (values, _) in zip(logits, made, strict=True):
            own.append(values)
    for image, own, label in zip(images, logits, labels, strict=True):
        yield image, torch.stack(own, 1), label
