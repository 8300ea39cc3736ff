"""The settings that are used where nothing is set: chosen by the kind of the model.

They follow docs/results.md: two far states, their class scores averaged, in dense predictions after
they were moved back exactly.
"""

from collections.abc import Sequence

import torch

from ..errors import UnsearchableModelError
from ..subsampling import SubsamplingGroup, SubsamplingMap, select_groups
from ..subsampling.backbone import noise_image
from .adapters import ModelAdapter

AUTO = 'auto'
SEARCH = dict(type='SpreadStates', budget=2)
MOST_STRIDE = 8  # of the input of the group searched in a classifier, in pixels
#: why a group is searched, by whether predictions are dense
REASONS = {
    True: 'the deepest group in front of every feature level that the head reads',
    False: f'the deepest group whose input has a stride of at most {MOST_STRIDE} pixels',
}


def aggregator(dense: bool) -> dict:
    """The mean of class scores, aligned exactly where they are maps."""
    return dict(type='AverageAggregator', on='logits', align='exact' if dense else 'none')


def choose_groups(found: SubsamplingMap, adapter: ModelAdapter) -> Sequence[SubsamplingGroup]:
    """The group that pays best for its cost, by measurement on real models.

    Segmentors: the deepest group that every level read by the head has passed, so that all levels
    move alike. Classifiers: the deepest group whose input has a stride of at most 8 pixels.

    Raises:
        UnsearchableModelError: if there is no such group.
    """
    groups = select_groups(found, 'all')
    if adapter.dense:
        read = _levels_read(found, adapter)
        groups = [group for group in groups if read <= set(group.levels)]
    else:
        groups = [g for g in groups if max(g.stride) <= MOST_STRIDE] or groups[:1]
    if not groups:
        raise UnsearchableModelError(
            'no group lies in front of all feature levels that the head reads'
        )
    return groups[-1:]


def _levels_read(found: SubsamplingMap, adapter: ModelAdapter) -> set[int]:
    """Positions of the output levels on which the logits depend."""
    image = noise_image(adapter.backbone, found.small_size, found.in_channels)
    with torch.no_grad():
        levels = adapter.features(image)
    return {index for index, read in enumerate(adapter.levels_read(levels, image)) if read}
