"""Calibration: states and gate thresholds chosen on labelled images."""

from .calibrate import CalibrationRequest, calibrate
from .candidates import ExternalStates, merged_with_each
from .forward_selection import ForwardSelection
from .gate_traces import GateTraces, RecordedSearch

__all__ = [
    'CalibrationRequest',
    'ExternalStates',
    'ForwardSelection',
    'GateTraces',
    'RecordedSearch',
    'calibrate',
    'merged_with_each',
]
