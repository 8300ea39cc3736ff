"""Where the method meets the MM runner."""

from .checkpoint import check_checkpoint
from .search_hook import SubsamplingSearchHook

__all__ = ['SubsamplingSearchHook', 'check_checkpoint']
