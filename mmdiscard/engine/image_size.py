"""The size of image to trace a model with: that of the images that will come."""

from typing import Any

from mmengine.logging import print_log
from torch.utils.data import DataLoader

from ..models import unwrap
from ..models.views import split_views

LONGEST = 512  # pixels; strides are the same for larger images, and tracing is quicker
MULTIPLE = 32


def size_to_trace(model: Any, loader: DataLoader) -> tuple[int, int] | None:
    """``(H, W)`` of the first image as the model receives it, scaled down where it is large.

    In slide inference it is that of a window; None if the first image cannot be had.
    """
    model = unwrap(model)
    test_cfg = getattr(model, 'test_cfg', None) or {}
    window = test_cfg.get('crop_size') if test_cfg.get('mode') == 'slide' else None
    try:
        size = window or _first_size(model, loader)
    except Exception as error:  # whatever a data set of others raises; the loop will say it
        print_log(f'mmdiscard: the size of the first image is not known: {error}', 'current')
        return None
    if max(size) <= LONGEST:
        return tuple(map(int, size))
    scale = LONGEST / max(size)
    return tuple(max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in size)


def _first_size(model: Any, loader: DataLoader) -> tuple[int, int]:
    batch = loader.collate_fn([loader.dataset[0]])
    if isinstance(batch, dict) and isinstance(batch['inputs'][0], list | tuple):
        batch = split_views(batch)[0]  # of test-time augmentation
    return tuple(model.data_preprocessor(batch, False)['inputs'].shape[-2:])
