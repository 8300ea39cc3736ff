"""Functions for users, re-exported by the package."""

from collections.abc import Sequence
from typing import Any

from . import subsampling
from .models import attach, searched_module
from .models.wrappers import normalised_channels
from .subsampling import OracleReport, SubsamplingGroup

__all__ = ['attach', 'find_subsampling', 'translation_oracle']

Size = tuple[int, int]


def find_subsampling(
    model: Any,
    input_size: Size = (224, 224),
    in_channels: int | None = None,
    groups: Sequence[Any] | None = None,
) -> list[SubsamplingGroup]:
    """Subsampling groups on the trunk of a backbone, in execution order.

    Args:
        model: a backbone, which maps images ``(N, C, H, W)`` to one or more feature maps, or a
            model that `attach` takes, for the groups that it would search. Weights, buffers and
            mode stay as they are.
        input_size: ``(H, W)`` of the image to trace with; one that the backbone accepts.
        in_channels: ``C``; by default what the model's data preprocessor normalises, or the first
            plausible number that the backbone runs with.
        groups: which of them, as in `attach`, such as ``['image', -1]``; all of the backbone's
            own by default.

    Raises:
        MMDiscardError: if the backbone cannot be run at ``input_size``, or has no such groups.
    """
    backbone = searched_module(model)
    found = subsampling.map_subsampling(
        backbone, input_size, in_channels, normalised_channels(model)
    )
    if groups is None:
        return list(found.groups)
    return list(subsampling.select_groups(found, groups, backbone))


def translation_oracle(
    model: Any,
    groups: Sequence[SubsamplingGroup],
    input_size: Size = (224, 224),
    seed: int = 0,
    in_channels: int | None = None,
) -> list[OracleReport]:
    """Check every group on random images, each with its largest selection index.

    Args:
        model: the backbone or model that the groups belong to; comes back unchanged.
        groups: as `find_subsampling` returns them, or made by hand.
        input_size: ``(H, W)`` of the images.
        seed: of the random images.
        in_channels: as for `find_subsampling`.
    """
    return subsampling.translation_oracle(
        searched_module(model), groups, input_size, seed, in_channels, normalised_channels(model)
    )
