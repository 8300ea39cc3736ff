"""States and gate thresholds chosen once on labelled images."""

from .calibrate import Request, calibrate
from .candidates import ExternalStates, merged_with_each
from .forward_selection import ForwardSelection, Step
from .gate_traces import GateTraces, RecordedSearch, RecordingGate

__all__ = [
    'ExternalStates',
    'ForwardSelection',
    'GateTraces',
    'RecordedSearch',
    'RecordingGate',
    'Request',
    'Step',
    'calibrate',
    'merged_with_each',
]
