"""One view of test-time augmentation: through the model, and what comes out of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MMDiscardError
from ..models.ensemble import Ensemble, ensemble_of

VIEW = 'view'  # the meta information under which a sample keeps the name of its view
SMALLEST = 1e-6


@dataclass(frozen=True)
class ViewOutput:
    """What the model says of one image in one view, flips and scales undone as MM does.

    Attributes:
        sample: the data sample that MM made.
        probabilities: gives ``(K,)`` or ``(K, H, W)``.
        logits: gives the same before the softmax (of a single channel: before the sigmoid).
        weight: what the states inside the view weigh together, a number or ``(H, W)``; None if
            there are none or nothing is known of them.
    """

    sample: Any
    probabilities: Callable[[], Tensor]
    logits: Callable[[], Tensor]
    weight: Tensor | None = None

    def values(self, on: str) -> Tensor:
        """``'probabilities'`` or ``'logits'``, whichever a merger merges."""
        return getattr(self, on)()


def split_views(data: Any) -> list[Any]:
    """A batch as MM collates it, view by view, each as the model's `test_step` takes it."""
    if isinstance(data, dict):
        count = len(next(iter(data.values())))
        return [{key: values[view] for key, values in data.items()} for view in range(count)]
    return [[part[view] for part in data] for view in range(len(data[0]))]


def view_names(views: Sequence[Any]) -> list[str]:
    """A name for every view of a batch.

    A pipeline with `TestTimePolicy` names its views; those of MM's `TestTimeAug` are called by
    their position, with a word on flips.
    """
    return [_name(index, _first_sample(view)) for index, view in enumerate(views)]


def _name(index: int, sample: Any) -> str:
    meta = {} if sample is None else sample.metainfo
    flip = f' {meta.get("flip_direction")} flip' if meta.get('flip') else ''
    return meta.get(VIEW, f'view {index}{flip}')


def _first_sample(view: Any) -> Any:
    samples = view.get('data_samples') if isinstance(view, dict) else view[-1]
    return samples[0] if isinstance(samples, list | tuple) and samples else None


@contextmanager
def naming(view: Any, name: str) -> Iterator[None]:
    """Say of which view and image it is that the model cannot predict it.

    Raises:
        MMDiscardError: instead of what the model raises.
    """
    try:
        yield
    except (MMDiscardError, torch.cuda.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        meta = getattr(_first_sample(view), 'metainfo', {})
        raise MMDiscardError(
            f'the model cannot predict the view {name!r} of {meta.get("img_path", "an image")} '
            f'(size {meta.get("img_shape", "unknown")}): {error}; take it out of tta_pipeline'
        ) from error


# ------------------------------------------------------------------------------------ classifiers
def read_classifier(model: nn.Module, view: Any, joint: bool = False) -> list[ViewOutput]:
    """Predict one view of a batch.

    Args:
        model: a classifier of MMPretrain, attached or not.
        view: as `split_views` gives it.
        joint: whether the weight of the states is wanted.
    """
    ensemble = ensemble_of(model)
    with _heard(getattr(model, 'head', None)) as heard:
        samples = model.test_step(view)
    logits = heard[-1] if heard and len(heard[-1]) == len(samples) else None
    weights = _weights(ensemble) if joint else None
    return [
        ViewOutput(
            sample,
            lambda sample=sample: sample.pred_score,
            # What gives no logits gives their logarithms, which differ by a constant.
            (lambda sample=sample: sample.pred_score.clamp(min=1e-38).log())
            if logits is None
            else (lambda index=index: logits[index]),
            None if weights is None else weights[index].reshape(()),
        )
        for index, sample in enumerate(samples)
    ]


@contextmanager
def _heard(head: nn.Module | None) -> Iterator[list[Tensor]]:
    """What a head says; the last is what its post-processing gets."""
    heard: list[Tensor] = []
    if head is None:
        yield heard
        return

    def listen(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 2:
            heard[:] = [output]

    handle = head.register_forward_hook(listen)
    try:
        yield heard
    finally:
        handle.remove()


def _weights(ensemble: Ensemble | None) -> Tensor | None:
    return None if ensemble is None else ensemble.last.weight


# ------------------------------------------------------------------------------------- segmentors
def read_segmentor(model: nn.Module, view: Any, joint: bool = False) -> list[ViewOutput]:
    """Predict one view of a batch with a segmentor of MMSegmentation; see `read_classifier`.

    The weights of states are maps, which have to be flipped, resized and put together from windows
    as the logits are: they go the same way, as one more class.
    """
    ensemble = ensemble_of(model)
    carries = joint and ensemble is not None and ensemble.aggregator.weighs_confidence
    carries = carries and ensemble.budget > 1
    with _weight_as_class(ensemble) if carries else _nothing():
        samples = model.test_step(view)
    return [_segmented(sample, carries) for sample in samples]


def _segmented(sample: Any, carries: bool) -> ViewOutput:
    data = sample.seg_logits.data
    if carries:
        weight = data[-1].clamp(min=SMALLEST)
        logits = data[:-1]
        return ViewOutput(
            sample,
            lambda: logits.softmax(0) if len(logits) > 1 else logits.sigmoid(),
            lambda: logits,
            weight,
        )
    if len(data) > 1:
        return ViewOutput(sample, lambda: data.softmax(0), lambda: data)
    # Of a binary head MM's samples hold probabilities already.
    return ViewOutput(sample, lambda: data, lambda: data.logit(SMALLEST))


@contextmanager
def _weight_as_class(ensemble: Ensemble) -> Iterator[None]:
    """Let a segmentor put the weight of states behind its logits, as one more class."""
    model = ensemble.adapter.model
    predict, classes = model.encode_decode, model.out_channels

    def encode_decode(inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        logits = predict(inputs, batch_img_metas)
        weight = ensemble.last.weight.to(logits).expand(-1, 1, *logits.shape[2:])
        return torch.cat([logits, weight], 1)

    model.encode_decode, model.out_channels = encode_decode, classes + 1
    try:
        yield
    finally:
        model.encode_decode, model.out_channels = predict, classes


@contextmanager
def _nothing() -> Iterator[None]:
    yield
