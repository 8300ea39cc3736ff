"""mmdiscard in the MM runner: the test hook, its summary, and what the tools share."""

from .checkpoint import check_checkpoint
from .search_hook import SubsamplingSearchHook

__all__ = [
    'SubsamplingSearchHook',
    'check_checkpoint',
]
