"""Logits of every view of labelled images, to fit mergers to."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn
from torch.utils.data import Subset

from ..engine.data_subset import CalibrationImages, ordered_loader
from ..errors import MMDiscardError
from ..models import adapter_class, unwrap
from ..models.adapters import last_head
from ..models.views import split_views, view_names
from ..utils import Progress, innermost_datasets
from .logit_cache import IGNORED, LogitCache
from .models import DiscardClsTTA, DiscardSegTTA, DiscardTTA
from .view_output import ViewOutput

#: (output of a view, position of the image) -> logits ``(rows, K)``, labels ``(rows,)``
ReadRows = Callable[[ViewOutput, int], tuple[Tensor, Tensor]]
FLUSH_EVERY = 20  # batches


@dataclass(frozen=True)
class LabelledViews(CalibrationImages):
    """Random images of a split of a config, in the views of its ``tta_pipeline``."""

    split: str = 'train'
    images: int = 2000

    def check(self, cfg: Config) -> None:
        """Raise `MMDiscardError` unless a config has such images and views, and tests on others."""
        super().check(cfg)
        if not cfg.get('tta_pipeline'):
            raise MMDiscardError(
                'the config has no `tta_pipeline`, which says what the views are; inherit one of '
                'configs/_base_/tta'
            )

    def dataset(self, cfg: Config) -> ConfigDict:
        """Config of the data set that the images are drawn from, with the ``tta_pipeline``."""
        dataset = super().dataset(cfg)
        for inner in innermost_datasets(dataset):
            inner.pipeline = copy.deepcopy(cfg.get('tta_pipeline'))
            inner.test_mode = True
        return dataset


def tta_model(model: nn.Module, merger: Mapping[str, Any] | None = None) -> DiscardTTA:
    """A classifier or segmentor wrapped in mmdiscard's TTA model."""
    dense = adapter_class(unwrap(model)).dense
    return (DiscardSegTTA if dense else DiscardClsTTA)(model, merger=merger)


def image_row(output: ViewOutput, image: int) -> tuple[Tensor, Tensor]:
    """The only row of a classified image: logits ``(1, K)`` and label ``(1,)``.

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
    """Random pixels of a segmented image, the same in every view.

    Args:
        output: of one view.
        image: position of the image, which seeds the draw.
        pixels: number of pixels, ``P``.
        ignored: label of pixels that are not evaluated.

    Returns:
        Logits ``(P, K)`` and labels ``(P,)``, `IGNORED` where there is none.

    Raises:
        MMDiscardError: if the image has no label map.
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


def row_reader(model: nn.Module, pixels: int) -> tuple[ReadRows, int]:
    """Function that reads the rows of a model's outputs, and the number of rows per image.

    ``pixels`` are kept of each segmented image.

    Raises:
        MMDiscardError: if the model decides every class on its own (multi-label).
    """
    model = unwrap(model)
    adapter = adapter_class(model)
    if not adapter.dense:
        if adapter.has_independent_classes(model):
            raise MMDiscardError(
                'mergers are fitted to exclusive classes, and this model decides every class on '
                'its own (multi-label); use MeanMerger or EntropyMerger, which are not fitted'
            )
        return image_row, 1
    ignored = getattr(last_head(model), 'ignore_index', 255)
    return partial(pixel_rows, pixels=pixels, ignored=ignored), pixels


@torch.no_grad()
def fill_cache(
    cache: LogitCache, tta: DiscardTTA, cfg: Config, dataset: Subset, read: ReadRows
) -> None:
    """Predict the images that are missing in a cache, and write their logits and labels to it.

    Args:
        cache: the cache to fill.
        tta: the TTA model.
        cfg: config whose ``val_dataloader`` says how images are loaded.
        dataset: the images, in the views of the pipeline.
        read: see `row_reader`.
    """
    missing = cache.missing()
    if not missing:
        return
    loader = ordered_loader(cfg, Subset(dataset, missing))
    progress = Progress(len(loader), 'batches of views')
    positions = iter(missing)
    for batch, data in enumerate(loader, 1):
        names = view_names(split_views(data))
        for image, logits, labels in _read_batch(tta, data, positions, read):
            cache.begin(names, logits.shape[-1])
            cache.write(image, logits, labels)
        if batch % FLUSH_EVERY == 0 or batch == len(loader):
            cache.flush()
        progress.step()


def _read_batch(
    tta: DiscardTTA, data: Any, positions: Iterator[int], read: ReadRows
) -> list[tuple[int, Tensor, Tensor]]:
    """Position, logits ``(rows, V, K)`` and labels ``(rows,)`` of every image of a batch."""
    images: list[int] = []
    views: list[list[tuple[Tensor, Tensor]]] = []
    for _, outputs in tta.views(data):
        images = images or [next(positions) for _ in outputs]
        views.append([read(*pair) for pair in zip(outputs, images, strict=True)])
    return [
        (image, torch.stack([logits for logits, _ in rows], 1), rows[0][1])
        for image, rows in zip(images, zip(*views, strict=True), strict=True)
    ]
