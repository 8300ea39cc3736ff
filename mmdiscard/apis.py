"""What users call; re-exported by the package."""

from collections.abc import Sequence
from typing import Any

from . import subsampling
from .models import attach, searched_module
from .subsampling import OracleReport, SubsamplingGroup

__all__ = ['attach', 'find_subsampling', 'translation_oracle']

Size = tuple[int, int]


def find_subsampling(model: Any, input_size: Size = (224, 224)) -> list[SubsamplingGroup]:
    """Subsampling groups on the trunk of a backbone, in execution order.

    Args:
        model: a backbone, which maps ``(N, 3, H, W)`` to one or more feature maps, or a model that
            `attach` takes, for the groups that it would search. Weights, buffers and mode stay as
            they are.
        input_size: ``(H, W)`` of the image to trace with; one that the backbone accepts.

    Raises:
        MMDiscardError: if the backbone cannot be run at ``input_size``.
    """
    return subsampling.find_subsampling(searched_module(model), input_size)


def translation_oracle(
    model: Any,
    groups: Sequence[SubsamplingGroup],
    input_size: Size = (224, 224),
    seed: int = 0,
) -> list[OracleReport]:
    """Check every group on random images, each with its largest selection index.

    Args:
        model: the backbone or model that the groups belong to; comes back unchanged.
        groups: as `find_subsampling` returns them, or made by hand.
        input_size: ``(H, W)`` of the images.
        seed: of the random images.
    """
    return subsampling.translation_oracle(searched_module(model), groups, input_size, seed)
