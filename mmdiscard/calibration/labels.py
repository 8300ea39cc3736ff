"""Labels in the layout of a model's logits, and the loss between the two."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MMDiscardError
from ..models.adapters import last_head


@dataclass(frozen=True)
class LabelledImages:
    """Inputs of one forward pass and the labels of its outputs.

    Attributes:
        images: ``(N, 3, H, W)``, preprocessed.
        context: see `Ensemble.predict`.
        labels: ``(N,)`` or ``(N, H, W)`` long.
        ignored: the label that is left out of the loss.
        independent: whether classes are independent decisions (sigmoid).
    """

    images: Tensor
    context: Any
    labels: Tensor
    ignored: int = -100
    independent: bool = False

    def loss(self, logits: Tensor) -> Tensor:
        """Sum of the loss over all labels but ignored ones, and their number: ``(2,)`` float64.

        The loss is the cross entropy, or the mean binary cross entropy of independent classes. For
        logits ``(N, K, h, w)`` labels are resized to ``(h, w)`` by nearest neighbour.

        Raises:
            MMDiscardError: if a label is not a class of the model.
        """
        logits, binary = logits.float(), logits.shape[1] == 1
        if binary:  # a binary decision: the logit of the second class
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        labels = self.labels
        if logits.shape[2:] != labels.shape[1:]:
            labels = _nearest(labels, logits.shape[2:])
        counted = labels != self.ignored
        labels = labels.masked_fill(~counted, 0)
        if labels.min() < 0 or labels.max() >= logits.shape[1]:
            raise MMDiscardError(
                f'labels go from {labels.min()} to {labels.max()}, but the model has '
                f'{logits.shape[1]} classes; check num_classes and, for segmentors, '
                'reduce_zero_label'
            )
        if self.independent and not binary:
            targets = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(logits)
            losses = F.binary_cross_entropy_with_logits(logits, targets, reduction='none').mean(1)
        else:
            losses = F.cross_entropy(logits, labels, reduction='none')
        losses = losses.masked_fill(~counted, 0)
        return torch.stack([losses.sum(dtype=torch.float64), counted.sum().double()])


class ImageLabels:
    """Labels for a classifier, one per image."""

    def __init__(self, model: nn.Module, independent: bool = False) -> None:
        self.independent = independent

    def passes(self, images: Tensor, samples: Sequence[Any]) -> Iterator[LabelledImages]:
        """The forward passes of a preprocessed batch: a single one.

        Raises:
            MMDiscardError: if an image has no label, or several.
        """
        labels = [sample.get('gt_label') for sample in samples]
        if any(label is None or label.numel() != 1 for label in labels):
            raise MMDiscardError('calibration needs images with exactly one label each')
        labels = torch.cat(labels).to(images.device)
        yield LabelledImages(images, None, labels, independent=self.independent)


class PixelLabels:
    """Labels for a segmentor, one per pixel, in whole and in slide inference."""

    def __init__(self, model: nn.Module, independent: bool = False) -> None:
        self.independent = independent
        self.ignored = getattr(last_head(model), 'ignore_index', 255)
        self.test_cfg = model.test_cfg

    def passes(self, images: Tensor, samples: Sequence[Any]) -> Iterator[LabelledImages]:
        """The forward passes of a preprocessed batch: one, or one per window of slide inference.

        Raises:
            MMDiscardError: if an image has no label map.
        """
        if any('gt_sem_seg' not in sample for sample in samples):
            raise MMDiscardError(
                'calibration needs labelled images; add LoadAnnotations to the pipeline of '
                'val_dataloader'
            )
        labels = torch.stack([self._map(sample, images.shape[2:]) for sample in samples])
        labels = labels.to(images.device)
        metas = [sample.metainfo for sample in samples]
        if self.test_cfg.get('mode', 'whole') == 'whole':
            yield LabelledImages(images, metas, labels, self.ignored, self.independent)
            return
        for rows, columns in product(*map(self._windows, images.shape[2:], (0, 1))):
            window = images[:, :, rows, columns]
            own = [meta | dict(img_shape=window.shape[2:]) for meta in metas]
            seen = labels[:, rows, columns]
            yield LabelledImages(window, own, seen, self.ignored, self.independent)

    def _map(self, sample: Any, size: Sequence[int]) -> Tensor:
        """Label map ``(H, W)`` of a padded image, with the ignored label in the padding."""
        meta = sample.metainfo
        left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
        shown = (size[0] - top - bottom, size[1] - left - right)
        labels = _nearest(sample.gt_sem_seg.data.long(), shown)[0]
        return F.pad(labels, (left, right, top, bottom), value=self.ignored)

    def _windows(self, size: int, axis: int) -> list[slice]:
        """Windows along one axis, as MMSegmentation's `EncoderDecoder.slide_inference` has them."""
        crop, stride = self.test_cfg.crop_size[axis], self.test_cfg.stride[axis]
        count = max(size - crop + stride - 1, 0) // stride + 1
        ends = [min(index * stride + crop, size) for index in range(count)]
        return [slice(max(end - crop, 0), end) for end in ends]


LABELS = {False: ImageLabels, True: PixelLabels}


def _nearest(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Resize labels ``(N, H, W)`` to another size by nearest neighbour."""
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    return F.interpolate(labels[:, None].double(), tuple(size), mode='nearest')[:, 0].long()
