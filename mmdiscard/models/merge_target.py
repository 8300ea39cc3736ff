"""What a learned aggregator has to know of a model."""

from typing import TYPE_CHECKING

import torch

from ..aggregation import Aggregator, MergeTarget
from ..errors import MMDiscardError
from ..execution import Levels
from ..search import Search
from ..subsampling import Fingerprint
from ..subsampling.backbone import blank_image, inference_mode

if TYPE_CHECKING:
    from .ensemble import Ensemble


def merge_target(ensemble: 'Ensemble', input_size: tuple[int, int]) -> MergeTarget:
    """Shapes of what is merged, found by one run on a blank image of ``input_size``."""
    adapter = ensemble.adapter
    image = blank_image(adapter.backbone, input_size)
    context = adapter.default_context(image)
    with inference_mode(adapter.model):
        levels = adapter.features(image)
        logits = adapter.head(levels, image, context)
    if ensemble.aggregator.stage.head_after:
        merged, read = levels, levels_read(ensemble, levels, image)
    else:
        merged, read = (logits,), (True,)
    return MergeTarget(
        geometry=ensemble.geometry,
        shapes=tuple(tuple(tensor.shape[1:]) for tensor in merged),
        read=read,
        fingerprint=Fingerprint.of(
            adapter.model,
            adapter.backbone,
            ensemble.groups,
            input_size,
            [tensor.shape[1] for tensor in merged],
        ),
    )


def check_attention(search: Search, aggregator: Aggregator) -> None:
    """Check that a search which looks at attention gets some.

    Raises:
        MMDiscardError: if not.
    """
    wanted = search.criterion is not None and search.criterion.needs_attention
    if wanted and not aggregator.gives_attention:
        raise MMDiscardError(
            f'{type(search.criterion).__name__} scores states by the attention of the aggregator, '
            f'and {type(aggregator).__name__} has none; use AttentionAggregator, or another '
            'criterion'
        )


def levels_read(ensemble: 'Ensemble', levels: Levels, image: torch.Tensor) -> tuple[bool, ...]:
    """On which output levels of an image the logits depend."""
    levels = tuple(level.detach().clone().requires_grad_() for level in levels)
    context = ensemble.adapter.default_context(image)
    with inference_mode(ensemble.adapter.model), torch.enable_grad():
        logits = ensemble.adapter.head(levels, image, context)
        gradients = torch.autograd.grad(logits.sum(), levels, allow_unused=True)
    return tuple(gradient is not None for gradient in gradients)
