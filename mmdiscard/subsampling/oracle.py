"""The translation oracle: what a state must do, checked without trained weights.

For a group on the trunk, state ``s`` on image ``x`` equals the default state on ``x`` translated by
the displacement of ``s``, away from the borders. It tells trunk from non-trunk and catches a wrong
order, offset or unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .backbone import Size, as_levels, blank_image, deepest, inference_mode
from .hooks import StateHooks
from .state import StateSpace, SubsamplingGroup
from .tracing import channels_taken

PASS_BELOW = 0.5


@dataclass(frozen=True)
class OracleReport:
    """Result of the translation oracle for one group.

    Attributes:
        group: name of the group.
        error: mean absolute difference, in the centre of the deepest map, between the state and the
            default state on the translated image.
        effect: the same between the state and the default state on the untranslated image.
    """

    group: str
    error: float
    effect: float

    @property
    def ratio(self) -> float:
        """``error / effect``: near 0 for a trunk group, near 1 for one that is not on the trunk."""
        return self.error / max(self.effect, 1e-12)

    @property
    def passed(self) -> bool:
        """Whether the group translates."""
        return self.ratio < PASS_BELOW


def translation_oracle(
    backbone: nn.Module,
    groups: Sequence[SubsamplingGroup],
    input_size: Size = (224, 224),
    seed: int = 0,
    in_channels: int | None = None,
    expected_channels: int | None = None,
) -> list[OracleReport]:
    """Check every group on random images, each with its largest selection index.

    Args:
        backbone: the module that the groups belong to; comes back unchanged.
        groups: as `find_subsampling` returns them, or made by hand.
        input_size: ``(H, W)`` of the images.
        seed: of the random images.
        in_channels: of the images; None to find out by running.
        expected_channels: what to try first where ``in_channels`` is None.
    """
    with inference_mode(backbone):
        channels = in_channels or channels_taken(backbone, input_size, expected_channels)
        image = blank_image(backbone, input_size, channels)
        return [_check(backbone, group, image, seed) for group in groups]


def _check(backbone: nn.Module, group: SubsamplingGroup, image: Tensor, seed: int) -> OracleReport:
    """The better of two images: no image makes a group translate that is not on the trunk.

    Noise in the middle alone leaves what moves over a border blank, which suits backbones that
    look far. Noise everywhere suits those that blow up what is blank by normalising it.
    """
    reports = []
    for share in (0.5, 1.0):
        reports.append(_compare(backbone, group, image, seed, share))
        if reports[-1].passed:
            break
    return min(reports, key=lambda report: report.ratio)


def _compare(
    backbone: nn.Module, group: SubsamplingGroup, blank: Tensor, seed: int, share: float
) -> OracleReport:
    """Compare with noise in the given share of both axes of a blank image."""
    space = StateSpace([group])
    state = torch.tensor([[group.num_indices - 1]])
    dy, dx = space.displacement(state)[0].tolist()
    channels, height, width = blank.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.randn((1, channels, height + dy, width + dx), generator=generator)
    canvas = canvas * torch.outer(_middle(height + dy, share), _middle(width + dx, share))
    canvas = canvas.to(blank)
    image, translated = canvas[..., :height, :width], canvas[..., dy:, dx:]
    hooks = StateHooks(backbone, [group])
    try:
        default, expected = _deepest(backbone, image), _deepest(backbone, translated)
        with hooks.select(state):
            found = _deepest(backbone, image)
    finally:
        hooks.remove()
    return OracleReport(group.name, _difference(found, expected), _difference(found, default))


def _middle(size: int, share: float) -> Tensor:
    """1 in the middle of ``size`` cells, 0 before and after."""
    position = (torch.arange(size) + 0.5) / size - 0.5
    return (position.abs() < share / 2).float()


def _deepest(backbone: nn.Module, image: Tensor) -> Tensor:
    levels = as_levels(backbone(image.contiguous()))
    return levels[deepest(levels)].float()


def _difference(a: Tensor, b: Tensor) -> float:
    difference = (a - b).abs()
    if difference.ndim == 4:
        h, w = difference.shape[2:]
        difference = difference[..., h // 3 : h - h // 3, w // 3 : w - w // 3]
    return float(difference.mean())
