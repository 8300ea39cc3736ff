"""States in a backbone: arithmetic, forward hooks, discovery, translation oracle."""

from .discovery import find_subsampling, map_subsampling
from .fingerprint import Fingerprint, GroupPrint
from .group_selection import is_image, select_groups
from .hooks import StateHooks
from .image_group import ImageInput, image_map
from .model_file import ModelFile
from .oracle import OracleReport, translation_oracle
from .state import StateSpace, SubsamplingGroup
from .subsampling_map import CheckedSizes, SubsamplingMap

__all__ = [
    'CheckedSizes',
    'Fingerprint',
    'ImageInput',
    'GroupPrint',
    'ModelFile',
    'OracleReport',
    'StateHooks',
    'StateSpace',
    'SubsamplingGroup',
    'SubsamplingMap',
    'find_subsampling',
    'image_map',
    'is_image',
    'map_subsampling',
    'select_groups',
    'translation_oracle',
]
