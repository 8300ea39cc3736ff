"""The order in which fixed states are computed, so that shared prefixes are computed once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

State = tuple[int, ...]


@dataclass
class Step:
    """One state to compute.

    Attributes:
        state: its indices.
        entry: the column of the group at which the backbone is entered; None for its beginning.
        source: position of the step whose recorded inputs it begins from; None from the image.
        record: columns at which later steps begin from this one.
    """

    state: State
    entry: int | None = None
    source: int | None = None
    record: set[int] = field(default_factory=set)


def plan_states(states: Sequence[State], possible: Callable[[int], bool]) -> list[Step]:
    """Let every state begin at the last group in front of which another has the same indices.

    The states are distinct; ``possible`` says of a column whether the backbone can be entered
    there.
    """
    steps: list[Step] = []
    computed: dict[State, int] = {}  # indices before a group -> the step that ran up to it
    for position, state in enumerate(map(tuple, states)):
        columns = (c for c in reversed(range(len(state))) if possible(c) and state[:c] in computed)
        step = Step(state, entry=next(columns, None))
        if step.entry is not None:
            step.source = computed[state[: step.entry]]
            steps[step.source].record.add(step.entry)
        for column in range(len(state)):
            computed.setdefault(state[:column], position)
        steps.append(step)
    return steps
