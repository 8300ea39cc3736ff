"""Maps of an ensemble's results in the frame of the original image, by MM's own code."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .ensemble import Ensemble
from .results import SearchResult


@contextmanager
def results_of(ensemble: Ensemble) -> Iterator[list[SearchResult]]:
    """Collects the results of batches that are predicted in this thread."""
    results: list[SearchResult] = []
    thread = threading.get_ident()

    def keep(result: SearchResult) -> None:
        if threading.get_ident() == thread:
            results.append(result)

    ensemble.listeners.append(keep)
    try:
        yield results
    finally:
        ensemble.listeners.remove(keep)


def joined(ensemble: Ensemble, maps: Sequence[Tensor], images: Tensor, metas: list[dict]) -> Tensor:
    """Maps of every window of a batch, put together as MM puts logits together.

    Args:
        ensemble: attached to a segmentor.
        maps: ``(N, 1, h, w)`` or ``(N, 1, 1, 1)`` of every call of `encode_decode`, in order.
        images: ``(N, C, H, W)`` of the batch, preprocessed.
        metas: of the images.

    Returns:
        ``(N, K, H, W)``, all channels alike.
    """
    segmentor, recorded = ensemble.adapter.model, iter(maps)

    def next_map(windows: Tensor, context: Any) -> Tensor:
        one = next(recorded)
        size = one.shape[2:] if one[0].numel() > 1 else windows.shape[2:]
        return one.to(windows).expand(-1, segmentor.out_channels, *size)

    with ensemble.adapter.route(next_map):
        return segmentor.inference(images, metas)


def in_image_frame(
    segmentor: nn.Module, maps: Tensor, samples: Sequence[Any] | None
) -> list[Tensor]:
    """First channel of ``maps`` by image, after MM removed padding, flips and scales.

    Args:
        segmentor: whose post-processing is used.
        maps: ``(N, K, H, W)``.
        samples: of the images; None where `predict` is given none, which leaves maps as they are.
    """
    # Two channels, because post-processing applies a sigmoid to a single one.
    twice = maps[:, :1].expand(-1, 2, -1, -1)
    done = segmentor.postprocess_result(twice, samples and [sample.new() for sample in samples])
    return [sample.seg_logits.data[0] for sample in done]
