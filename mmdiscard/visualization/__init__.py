"""Figures and reports."""

from .figures import draw_cost_curves, draw_panels
from .statistics import Interval, paired_interval

__all__ = ['Interval', 'draw_cost_curves', 'draw_panels', 'paired_interval']
