"""One view of a batch through the model: its logits, probabilities and weight."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MMDiscardError
from ..models.ensemble import ensemble_of
from ..models.output_maps import in_image_frame, joined, results_of
from ..models.uncertainty import add_maps
from ..models.views import preprocess

SMALLEST = 1e-6


@dataclass(frozen=True)
class ViewOutput:
    """Prediction of one view of an image; MM has undone its flip and scale.

    Attributes:
        sample: the data sample that MM made.
        probabilities: function that returns ``(K,)`` or ``(K, H, W)``.
        logits: function that returns the same before softmax or sigmoid.
        weight: sum of the weights of the states of this view, a number or ``(H, W)``; None if no
            states are merged, or if their weights do not measure confidence.
    """

    sample: Any
    probabilities: Callable[[], Tensor]
    logits: Callable[[], Tensor]
    weight: Tensor | None = None

    def values(self, on: str) -> Tensor:
        """``'probabilities'`` or ``'logits'``."""
        return getattr(self, on)()


# ------------------------------------------------------------------------------------ classifiers
def read_classifier(model: nn.Module, view: Any, weighted: bool = False) -> list[ViewOutput]:
    """Predict one view of a batch with a classifier of MMPretrain.

    Args:
        model: the classifier, attached or not.
        view: as `split_views` returns it.
        weighted: whether the weights of the states are wanted.

    Raises:
        MMDiscardError: if the model does not give one score per class.
    """
    ensemble = ensemble_of(model) if weighted else None
    collecting = nullcontext([]) if ensemble is None else results_of(ensemble)
    with _head_outputs(getattr(model, 'head', None)) as scores, collecting as results:
        samples = model.test_step(view)
    weight = results[-1].weight if results else None
    if not all('pred_score' in sample for sample in samples):
        raise MMDiscardError(
            f'{type(model).__name__} does not give one score per class, so its views cannot be '
            'merged'
        )
    logits = _logits(torch.stack([sample.pred_score for sample in samples]), scores)
    return [
        ViewOutput(
            sample,
            lambda sample=sample: sample.pred_score,
            lambda index=index: logits[index],
            None if weight is None else weight[index].reshape(()),
        )
        for index, sample in enumerate(samples)
    ]


def _logits(probabilities: Tensor, scores: Sequence[Tensor]) -> Tensor:
    """Logits ``(N, K)`` of probabilities: the head's scores if the probabilities are of these."""
    if scores and scores[-1].shape == probabilities.shape:
        given = (scores[-1].float().softmax(1), scores[-1].float().sigmoid())
        if any(torch.allclose(p, probabilities.float(), rtol=1e-2, atol=1e-5) for p in given):
            return scores[-1]
    # There is no such head, or the model changes its predictions after the head.
    probabilities = probabilities.float()
    exclusive = torch.allclose(probabilities.sum(1), probabilities.new_ones(()), atol=1e-3)
    return probabilities.clamp(min=1e-38).log() if exclusive else probabilities.logit(SMALLEST)


@contextmanager
def _head_outputs(head: nn.Module | None) -> Iterator[list[Tensor]]:
    """Collects the last scores ``(M, K)`` that a head returns in this thread."""
    outputs: list[Tensor] = []
    thread = threading.get_ident()

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if threading.get_ident() == thread and isinstance(output, Tensor) and output.ndim == 2:
            outputs[:] = [output]

    handle = None if head is None else head.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        if handle is not None:
            handle.remove()


# ------------------------------------------------------------------------------------- segmentors
def read_segmentor(model: nn.Module, view: Any, weighted: bool = False) -> list[ViewOutput]:
    """See `read_classifier`; predicts one view with a segmentor of MMSegmentation."""
    ensemble = ensemble_of(model) if weighted else None
    if ensemble is None or not ensemble.pipeline.weighs_confidence:
        return [_segmented(sample) for sample in model.test_step(view)]
    segmentor = ensemble.adapter.model
    images, given = preprocess(segmentor, view)
    metas = [sample.metainfo for sample in given]
    with results_of(ensemble) as results:
        if segmentor.out_channels > 1:
            samples = model.test_step(view)
            logits = [sample.seg_logits.data for sample in samples]
        else:  # samples hold probabilities, so keep the logits that they are made from
            maps = segmentor.inference(images, metas)
            logits = [data[None] for data in in_image_frame(segmentor, maps, given)]
            samples = segmentor.postprocess_result(maps, given)
            if ensemble.pipeline.uncertainty:
                add_maps(ensemble, samples, images, given, results)
    # MM joins windows of weights, flips and resizes them as it does with logits.
    weights = joined(ensemble, [result.weight for result in results], images, metas)
    totals = in_image_frame(segmentor, weights, given)
    return [
        replace(_segmented(sample), logits=lambda own=own: own, weight=total.clamp(min=SMALLEST))
        for sample, own, total in zip(samples, logits, totals, strict=True)
    ]


def _segmented(sample: Any) -> ViewOutput:
    data = sample.seg_logits.data
    if len(data) > 1:
        return ViewOutput(sample, lambda: data.softmax(0), lambda: data)
    # Samples of a binary head with one output channel hold probabilities already.
    return ViewOutput(sample, lambda: data, lambda: data.logit(SMALLEST))
