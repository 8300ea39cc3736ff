"""Uncertainty: confidence and disagreement of states, stored in MM's data samples."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from torch import Tensor

from ..aggregation.disagreement import probabilities_of
from ..errors import MMDiscardError
from .ensemble import Ensemble
from .output_maps import in_image_frame, joined, results_of
from .results import SearchResult
from .wrappers import wrappers_of

#: fields of a data sample: `PixelData` of ``(1, H, W)``, or ``(1,)`` of a classified image
CONFIDENCE = 'confidence'
DISAGREEMENT = 'disagreement'


def check_wrappers(model: Any) -> None:
    """Check that nothing around a model leaves stale values in samples that it merges.

    Raises:
        MMDiscardError: if it is a TTA model that does not know of them.
    """
    for outer in wrappers_of(model):
        if isinstance(outer, BaseTTAModel) and not getattr(outer, 'merges_uncertainty', False):
            raise MMDiscardError(
                f'uncertainty=True compares views as well, and {type(outer).__name__} would keep '
                'that of one view; use mmdiscard.DiscardSegTTA or mmdiscard.DiscardClsTTA as '
                'tta_model, which merges to the same prediction'
            )


def store_uncertainty(ensemble: Ensemble) -> None:
    """Let ``predict`` of the attached model store both fields in its samples, until it detaches."""
    ensemble.adapter.wrap_predict(partial(_predict, ensemble))


def _predict(
    ensemble: Ensemble, predict: Callable, inputs: Tensor, data_samples: Any = None, **kwargs: Any
) -> list[Any]:
    with results_of(ensemble) as results:
        samples = predict(inputs, data_samples, **kwargs)
    if ensemble.adapter.dense:
        add_maps(ensemble, samples, inputs, data_samples, results)
    else:
        _add_scores(ensemble, samples, results)
    return samples


def add_maps(
    ensemble: Ensemble,
    samples: Sequence[Any],
    images: Tensor,
    given: Sequence[Any] | None,
    results: Sequence[SearchResult],
) -> None:
    """Store the fields in the samples of a segmented batch.

    Args:
        ensemble: attached to the segmentor.
        samples: with its prediction.
        images: ``(N, C, H, W)``, preprocessed.
        given: the samples that `predict` was given; None if it was given none.
        results: of every call of `encode_decode` for this batch.
    """
    adapter = ensemble.adapter
    maps = [result.disagreement for result in results]
    if maps and maps[0] is not None:
        if given is None:
            metas = [meta | dict(padding_size=[0] * 4) for meta in adapter.default_context(images)]
        else:
            metas = [sample.metainfo for sample in given]
        whole = joined(ensemble, [one.unsqueeze(1) for one in maps], images, metas)
        maps = in_image_frame(adapter.model, whole, given)
    else:
        maps = [None] * len(samples)
    for sample, disagreement in zip(samples, maps, strict=True):
        logits, labels = sample.seg_logits.data, sample.pred_sem_seg.data
        if len(logits) > 1:
            logits = probabilities_of(logits[None], adapter.independent_classes)[0]
        set_fields(sample, confidence_of(logits, labels), disagreement)


def _add_scores(
    ensemble: Ensemble, samples: Sequence[Any], results: Sequence[SearchResult]
) -> None:
    """Store the fields in the samples of a classified batch."""
    independent = ensemble.adapter.independent_classes
    given = results[-1].disagreement if results else None
    for index, sample in enumerate(samples):
        confidence = confidence_of(sample.pred_score, None, independent)
        set_fields(sample, confidence, None if given is None else given[index])


def confidence_of(
    probabilities: Tensor, labels: Tensor | None = None, independent: bool = False
) -> Tensor:
    """Probability of what is predicted: ``(K, ...)`` -> ``(...)``.

    Args:
        probabilities: ``(K, ...)``.
        labels: ``(1, ...)``, the prediction of a binary head with a single channel.
        independent: whether each class is decided on its own; then the mean over classes.
    """
    if independent:
        return torch.maximum(probabilities, 1 - probabilities).mean(0)
    if len(probabilities) == 1:
        return torch.where(labels[0] > 0, probabilities[0], 1 - probabilities[0])
    return probabilities.amax(0)


def set_fields(sample: Any, confidence: Tensor, disagreement: Tensor | None) -> None:
    """Store both in a data sample; a disagreement of None is 0.

    Args:
        sample: of MMPretrain or MMSegmentation.
        confidence: a number, or ``(H, W)``.
        disagreement: likewise.
    """
    if disagreement is None:
        disagreement = torch.zeros_like(confidence)
    for name, value in ((CONFIDENCE, confidence), (DISAGREEMENT, disagreement)):
        field = PixelData(data=value[None]) if value.ndim else value.reshape(1)
        sample.set_field(field, name)


def fields_of(sample: Any) -> tuple[Tensor, Tensor] | None:
    """Confidence and disagreement, each a number or ``(H, W)``; None if the sample has none."""
    if DISAGREEMENT not in sample:
        return None
    values = (sample.get(name) for name in (CONFIDENCE, DISAGREEMENT))
    return tuple((value.data if isinstance(value, PixelData) else value)[0] for value in values)
