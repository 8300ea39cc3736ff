"""Labels of a batch, laid out as a model's logits are, and the loss between the two."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MMDiscardError


@dataclass(frozen=True)
class LabelledImages:
    """What goes through a model in one pass, and what should come out.

    Attributes:
        images: ``(N, 3, H, W)``, preprocessed.
        context: as `Ensemble.predict` takes it.
        labels: ``(N,)`` or ``(N, H, W)`` long.
        ignored: the label that does not count.
    """

    images: Tensor
    context: Any
    labels: Tensor
    ignored: int = -100

    def loss(self, logits: Tensor) -> Tensor:
        """Cross entropy, summed over the labels that count, and their number: ``(2,)`` float64.

        Args:
            logits: ``(N, K)`` or ``(N, K, h, w)``; labels are taken at the nearest place.
        """
        logits = logits.float()
        if logits.shape[1] == 1:  # the logit of the second of two classes
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        labels = self.labels
        if logits.shape[2:] != labels.shape[1:]:
            labels = _nearest(labels, logits.shape[2:])
        losses = F.cross_entropy(logits, labels, ignore_index=self.ignored, reduction='none')
        count = (labels != self.ignored).sum()
        return torch.stack([losses.sum(dtype=torch.float64), count.double()])


class ImageLabels:
    """Of a classifier: one label per image."""

    def __init__(self, model: nn.Module) -> None:
        pass

    def passes(self, images: Tensor, samples: Sequence[Any]) -> Iterator[LabelledImages]:
        """What a model sees of a preprocessed batch.

        Raises:
            MMDiscardError: if images have no label, or several.
        """
        labels = [sample.get('gt_label') for sample in samples]
        if any(label is None or label.numel() != 1 for label in labels):
            raise MMDiscardError('calibration needs images with exactly one label each')
        yield LabelledImages(images, None, torch.cat(labels).to(images.device))


class PixelLabels:
    """Of a segmentor: one label per pixel, and windows where it slides over the image."""

    def __init__(self, model: nn.Module) -> None:
        head = model.decode_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        self.ignored = getattr(head, 'ignore_index', 255)
        self.test_cfg = model.test_cfg

    def passes(self, images: Tensor, samples: Sequence[Any]) -> Iterator[LabelledImages]:
        """What a model sees of a preprocessed batch: the whole images, or every window.

        Raises:
            MMDiscardError: if images have no label map.
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
            yield LabelledImages(images, metas, labels, self.ignored)
            return
        for rows, columns in product(*map(self._windows, images.shape[2:], (0, 1))):
            window = images[:, :, rows, columns]
            own = [meta | dict(img_shape=window.shape[2:]) for meta in metas]
            yield LabelledImages(window, own, labels[:, rows, columns], self.ignored)

    def _map(self, sample: Any, size: Sequence[int]) -> Tensor:
        """``(H, W)`` labels where the pixels are; padding is ignored."""
        meta = sample.metainfo
        left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
        shown = (size[0] - top - bottom, size[1] - left - right)
        labels = _nearest(sample.gt_sem_seg.data.long(), shown)[0]
        return F.pad(labels, (left, right, top, bottom), value=self.ignored)

    def _windows(self, size: int, axis: int) -> list[slice]:
        """Along one axis, as `EncoderDecoder.slide_inference` places them."""
        crop, stride = self.test_cfg.crop_size[axis], self.test_cfg.stride[axis]
        count = max(size - crop + stride - 1, 0) // stride + 1
        ends = [min(index * stride + crop, size) for index in range(count)]
        return [slice(max(end - crop, 0), end) for end in ends]


LABELS = {False: ImageLabels, True: PixelLabels}


def _nearest(labels: Tensor, size: Sequence[int]) -> Tensor:
    """``(N, H, W)`` at another size."""
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    return F.interpolate(labels[:, None].double(), tuple(size), mode='nearest')[:, 0].long()
