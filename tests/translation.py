"""The translation oracle of a whole segmentor: its states, aligned exactly, seen from outside.

State ``s`` on an image, aligned exactly, equals the default state on the image translated by the
displacement of ``s``, its output translated back: away from the borders, and after the head. The
difference is measured against what the state changes at all, ``error / effect`` as in the
translation oracle.
"""

from typing import Any

import torch
from torch import Tensor, nn

import mmdiscard
from mmdiscard.aggregation.alignment import translate
from mmdiscard.search import FixedStates


def plain(model: nn.Module, image: Tensor) -> Tensor:
    """Scores ``(1, K, H, W)`` of a model, attached or not, for an image ``(1, 3, H, W)``."""
    shapes = ('ori_shape', 'img_shape', 'pad_shape')
    return model.encode_decode(image, [dict.fromkeys(shapes, image.shape[2:])])


def noise_in_the_middle(height: int, width: int) -> Tensor:
    """An image that is blank where its content moves over a border."""
    canvas = torch.zeros(1, 3, height, width)
    middle = canvas[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
    middle.normal_(generator=torch.Generator().manual_seed(0))
    return canvas


def difference(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference in the centre."""
    h, w = a.shape[2:]
    return float((a - b)[..., h // 3 : h - h // 3, w // 3 : w - w // 3].abs().mean())


@torch.no_grad()
def deviation(
    model: nn.Module, size: tuple[int, int], state: list[int] | None = None, **settings: Any
) -> float:
    """``error / effect`` of a state, with images of noise.

    Args:
        model: a segmentor, plain; it stays so.
        size: ``(H, W)`` of the images.
        state: default the one of two spread states that is not the default state.
        settings: of `mmdiscard.attach`, without a search.
    """
    with mmdiscard.attach(model, **settings, search=dict(type='SpreadStates', budget=2)) as found:
        state = state or found.search.states_in(found.space, found.prices)[1].tolist()
        found.use(FixedStates([state]))
        dy, dx = found.space.displacement(torch.tensor([state]))[0].tolist()
        canvas = noise_in_the_middle(size[0] + dy, size[1] + dx)
        image = canvas[..., : size[0], : size[1]].contiguous()
        merged = plain(model, image)
    default = plain(model, image)
    expected = plain(model, canvas[..., dy:, dx:].contiguous())
    expected = translate(expected, torch.tensor([[dy, dx]]) // (size[0] // expected.shape[2]))
    return difference(merged, expected) / difference(merged, default)
