"""The views of a batch of test-time augmentation, as MM collates them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MMDiscardError

VIEW = 'view'  # key of a sample's metainfo that holds the name of its view


def split_views(data: Any) -> list[Any]:
    """The views of a batch that MM collated, each in the form that `test_step` takes."""
    if isinstance(data, dict):
        count = len(next(iter(data.values())))
        return [{key: values[view] for key, values in data.items()} for view in range(count)]
    return [[part[view] for part in data] for view in range(len(data[0]))]


def view_names(views: Sequence[Any]) -> list[str]:
    """Name of every view of a batch.

    `TestTimePolicy` names its views; those of MM's `TestTimeAug` are named by position and flip.
    """
    return [_name(index, _first_sample(view)) for index, view in enumerate(views)]


def _name(index: int, sample: Any) -> str:
    meta = {} if sample is None else sample.metainfo
    flip = f' {meta.get("flip_direction")} flip' if meta.get('flip') else ''
    return meta.get(VIEW, f'view {index}{flip}')


def _first_sample(view: Any) -> Any:
    samples = view.get('data_samples') if isinstance(view, dict) else view[-1]
    return samples[0] if isinstance(samples, list | tuple) and samples else None


def preprocess(model: nn.Module, batch: Any) -> tuple[Tensor, list[Any]]:
    """Images ``(N, C, H, W)`` and samples of a batch of one view, as `test_step` makes them."""
    data = model.data_preprocessor(batch, False)
    return data['inputs'], data['data_samples']


@contextmanager
def errors_name_view(
    view: Any, name: str, cure: str = 'take it out of tta_pipeline'
) -> Iterator[None]:
    """Turn what the model raises on a view into an error that names the view and the image.

    Args:
        view: as `split_views` returns it.
        name: of the view.
        cure: what to do about it.

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
            f'(size {meta.get("img_shape", "unknown")}): {error}; {cure}'
        ) from error
