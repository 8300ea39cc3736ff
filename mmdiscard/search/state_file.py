"""Files of calibrated states: what `mmdiscard.calibrate` writes and `FixedStates` reads."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from ..subsampling import Fingerprint, ModelFile

STATE_FILE = ModelFile(
    'mmdiscard states', 1, '`python -m mmdiscard.calibrate CONFIG CHECKPOINT ...`'
)


def write_states(
    path: str | PathLike,
    fingerprint: Fingerprint,
    states: Sequence[Sequence[int]],
    notes: Mapping[str, Any],
) -> None:
    """Write states for a model.

    Args:
        path: JSON file.
        fingerprint: of the model.
        states: ``B`` lists of one selection index per searched group.
        notes: how the states were chosen and what they cost, for people to read.
    """
    STATE_FILE.write(
        path, fingerprint, dict(states=[list(state) for state in states]) | dict(notes)
    )


def read_states(path: str | PathLike) -> tuple[Fingerprint, list[list[int]]]:
    """Fingerprint of the model that the states were chosen for, and the states.

    Raises:
        MMDiscardError: if the file is missing, damaged, of another format or a later version.
    """
    fingerprint, content = STATE_FILE.read(path)
    states = content.get('states')
    width = len(fingerprint.groups)
    if not isinstance(states, list) or not states or not all(_fits(s, width) for s in states):
        raise STATE_FILE.damaged(path, f'states are to be lists of {width} selection indices')
    return fingerprint, states


def _fits(state: Any, width: int) -> bool:
    return (
        isinstance(state, list)
        and len(state) == width
        and all(isinstance(index, int) and not isinstance(index, bool) for index in state)
    )
