"""Metrics of data sets that are functions of sums over images, so that images can be resampled."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..errors import MMDiscardError
from ..models import adapter_class, unwrap
from ..models.adapters import last_head

BINS = 15  # of confidences, for the calibration error
SMALLEST = 1e-12


class Measure:
    """Statistics of a prediction whose sums over images give the metric.

    They are those of the metric, then the number of predictions, the sum of their log likelihoods,
    and for `BINS` bins of confidence the sums of confidences and of hits.

    Attributes:
        name: of the metric.
        length: how many numbers are kept of an image, ``D``.
    """

    name: str
    own: int  # numbers of the metric itself

    @property
    def length(self) -> int:
        return self.own + 2 + 2 * BINS

    def of(self, views: Sequence[Any]) -> np.ndarray:
        """Numbers ``(D,)`` of an image whose prediction is the mean over its views.

        ``views`` are data samples with predictions, as MM made them.

        Raises:
            MMDiscardError: if the image has no label that the metric could use.
        """
        raise NotImplementedError

    def value(self, sums: np.ndarray) -> np.ndarray:
        """The metric in percent, of sums over images: ``(..., D)`` to ``(...)``."""
        raise NotImplementedError

    def likelihood(self, sums: np.ndarray) -> np.ndarray:
        """Mean negative log likelihood of the labels, in nats."""
        return -sums[..., self.own + 1] / sums[..., self.own]

    def calibration_error(self, sums: np.ndarray) -> np.ndarray:
        """Expected calibration error in percent."""
        bins = sums[..., self.own + 2 :]
        gaps = np.abs(bins[..., :BINS] - bins[..., BINS:]).sum(-1)
        return 100 * gaps / sums[..., self.own]

    @staticmethod
    def _common(probabilities: Tensor, predicted: Tensor, labels: Tensor) -> Tensor:
        """Likelihood and calibration of ``(K, M)`` probabilities and ``(M,)`` labels, 0..K-1."""
        probabilities = probabilities.double()
        log = probabilities.gather(0, labels[None])[0].clamp(min=SMALLEST).log().sum()
        confidence = probabilities.gather(0, predicted[None])[0]
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        hits = (predicted == labels).double()
        sums = [torch.bincount(bins, weights, BINS) for weights in (confidence, hits)]
        return torch.cat([log.new_tensor([float(len(labels))]), log[None], *sums])


class TopOne(Measure):
    """Top-1 accuracy of classifiers."""

    name = 'top-1'
    own = 1

    def of(self, views: Sequence[Any]) -> np.ndarray:
        label = views[0].get('gt_label')
        if label is None or label.numel() != 1:
            raise MMDiscardError(
                'choosing needs images with exactly one label each, and the images of this split '
                'have none or several'
            )
        probabilities = torch.stack([sample.pred_score for sample in views]).mean(0)[:, None]
        predicted, label = probabilities.argmax(0), label.reshape(1).to(probabilities.device)
        hit = (predicted == label).double()
        return torch.cat([hit, self._common(probabilities, predicted, label)]).cpu().numpy()

    def value(self, sums: np.ndarray) -> np.ndarray:
        return 100 * sums[..., 0] / sums[..., 1]


class MeanIoU(Measure):
    """Mean intersection over union of segmentors, over the classes that occur, as in MM.

    Args:
        classes: number of classes, ``K``.
        threshold: of a head with one output channel.
        ignored: label of pixels that are not evaluated.
    """

    name = 'mIoU'

    def __init__(self, classes: int, threshold: float | None = None, ignored: int = 255) -> None:
        self.classes = classes
        self.threshold = threshold
        self.ignored = ignored
        self.own = 3 * classes

    def of(self, views: Sequence[Any]) -> np.ndarray:
        probabilities = self._mean([sample.seg_logits.data for sample in views])
        if 'gt_sem_seg' not in views[0]:
            raise MMDiscardError(
                'choosing needs labelled images, and the test pipeline has no LoadAnnotations'
            )
        labels = views[0].gt_sem_seg.data[0].long().to(probabilities.device)
        if labels.shape != probabilities.shape[1:]:
            raise MMDiscardError(
                f'a label map is {tuple(labels.shape)} and its prediction '
                f'{tuple(probabilities.shape[1:])}: put LoadAnnotations behind Resize in the test '
                'pipeline'
            )
        if len(views) == 1:  # what MM predicts, also where two classes are equal
            predicted = views[0].pred_sem_seg.data[0].long()
        elif self.threshold is not None:
            predicted = (probabilities[1] > self.threshold).long()
        else:
            predicted = probabilities.max(0).indices
        kept = labels != self.ignored
        probabilities, predicted, labels = probabilities[:, kept], predicted[kept], labels[kept]
        areas = [self._areas(x) for x in (predicted[predicted == labels], predicted, labels)]
        known = labels < self.classes
        common = self._common(probabilities[:, known], predicted[known], labels[known])
        return torch.cat([*areas, common]).cpu().numpy()

    def value(self, sums: np.ndarray) -> np.ndarray:
        inter, predicted, labels = np.split(sums[..., : self.own], 3, axis=-1)
        union = predicted + labels - inter
        occurs = union > 0
        iou = np.where(occurs, inter / np.where(occurs, union, 1), 0)
        return 100 * iou.sum(-1) / np.maximum(occurs.sum(-1), 1)

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        """Mean probabilities ``(K, H, W)``. One channel holds probabilities already."""
        if len(logits[0]) > 1:
            return torch.stack([one.softmax(0) for one in logits]).mean(0)
        second = torch.stack([one[0] for one in logits]).mean(0)
        return torch.stack([1 - second, second])

    def _areas(self, labels: Tensor) -> Tensor:
        labels = labels[labels < self.classes]
        return torch.bincount(labels, minlength=self.classes).double()


def measure_of(model: nn.Module, cfg: Config) -> Measure:
    """The metric that procedures are compared by.

    The evaluator of the config may name the label that is ignored.

    Raises:
        MMDiscardError: if the model decides every class on its own (multi-label).
    """
    model = unwrap(model)
    adapter = adapter_class(model)
    if not adapter.dense:
        if adapter.has_independent_classes(model):
            raise MMDiscardError(
                'procedures are compared by top-1 accuracy, and this model decides every class on '
                'its own (multi-label)'
            )
        return TopOne()
    head = last_head(model)
    binary = model.out_channels == 1
    classes = 2 if binary else head.num_classes
    evaluators = cfg.get('test_evaluator') or {}
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators
    ignored = next((e['ignore_index'] for e in evaluators if 'ignore_index' in e), 255)
    return MeanIoU(classes, head.threshold if binary else None, ignored)
