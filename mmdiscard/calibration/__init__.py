"""Calibration: states and gate thresholds chosen on labelled images."""

from .calibrate import CalibrationRequest, calibrate
from .candidates import ExternalStates, merged_with_each
from .forward_selection import ForwardSelection, Step
from .gate_traces import GateTraces, RecordedSearch

__all__ = [
    'CalibrationRequest',
    'ExternalStates',
    'ForwardSelection',
    'GateTraces',
    'RecordedSearch',
    'Step',
    'calibrate',
    'merged_with_each',
]
