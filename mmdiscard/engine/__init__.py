"""Where the method meets the MM runner."""

from .aggregator_hook import AggregatorTrainingHook
from .checkpoint import check_checkpoint
from .search_hook import SubsamplingSearchHook

__all__ = ['AggregatorTrainingHook', 'SubsamplingSearchHook', 'check_checkpoint']
