"""Every view of an image through every setting of states once, and procedures made of them."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..models.views import errors_name_view, split_views
from .measures import Measure
from .procedures import PLAIN, Procedure, View

ITSELF: View = (1.0, False)  # the image as it is tested without other views
CURE = 'leave it out with --sizes or --no-flip'


@dataclass(frozen=True)
class ImageResult:
    """Statistics of one image.

    Attributes:
        statistics: ``(P, D)``: for every procedure, what `Measure.of` returned.
        costs: ``(P,)``, time of every procedure, in plain forwards of this image.
    """

    statistics: np.ndarray
    costs: np.ndarray


@torch.no_grad()
def evaluate_procedures(
    models: Mapping[str, nn.Module],
    procedures: Sequence[Procedure],
    views: Sequence[View],
    batches: Iterable[Any],
    measure: Measure,
) -> Iterator[list[ImageResult]]:
    """Predict every view with every setting of states once, and merge them for each procedure.

    What is held at a time are the predictions of one batch with one setting.

    Args:
        models: by name of a setting of states, the plain one first.
        procedures: to evaluate; their states are keys of ``models``.
        views: of the batches, in order.
        batches: images in these views, as MM collates them; with labels.
        measure: what is kept.

    Yields:
        Results of the images of a batch.

    Raises:
        MMDiscardError: names a view that the model cannot predict.
    """
    for data in batches:
        batch = dict(zip(views, split_views(data), strict=True))
        _predict(models[PLAIN], ITSELF, batch[ITSELF])  # else the plain model alone starts cold
        times: dict[tuple[str, View], float] = {}
        rows: dict[int, list[np.ndarray]] = {}
        for states, model in models.items():
            wanted = [(i, one) for i, one in enumerate(procedures) if one.states == states]
            samples = {}
            for view in dict.fromkeys(view for _, one in wanted for view in one.views):
                samples[view], times[states, view] = _predict(model, view, batch[view])
            for index, one in wanted:
                images = zip(*(samples[view] for view in one.views), strict=True)
                rows[index] = [measure.of(image) for image in images]
        plain = times[PLAIN, ITSELF]
        costs = [sum(times[one.states, view] for view in one.views) for one in procedures]
        costs = np.array(costs) / plain
        statistics = np.array([rows[index] for index in range(len(procedures))])
        yield [ImageResult(of_image, costs) for of_image in statistics.transpose(1, 0, 2)]


def _predict(model: nn.Module, view: View, data: Any) -> tuple[list[Any], float]:
    """Data samples of a batch, which are not changed by later predictions, and the time."""
    size, flip = view
    _synchronize()
    start = time.perf_counter()
    with errors_name_view(data, f'size {size:g}{" flip" if flip else ""}', CURE):
        samples = model.test_step(data)
    _synchronize()
    return [sample.clone() for sample in samples], time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
