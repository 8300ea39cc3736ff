"""Prefix reuse: every distinct prefix of the states is computed once.

States that agree up to a group share everything before it. A state is computed by entering the
backbone at its last group with an index other than 0, on the inputs that the members of that group
received for its *parent*: the state with that index set to 0. So the default state is one whole
forward, and every other one starts as late as it can. Images that went different ways are still
computed together, group by group.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..search import Rows
from ..subsampling import StateHooks
from ..subsampling.hooks import ReachedEnd
from .cost import CostModel
from .rows import Computed, Levels, check_max_rows

State = tuple[int, ...]
Key = tuple[int, State]  # image of the batch, state

GIBIBYTE = 2**30


class PrefixExecutor:
    """Computes states by branching off what their parents computed.

    Args:
        forward: the backbone, ``(M, 3, H, W)`` to its output levels.
        hooks: put states into that backbone, and inputs in front of its groups.
        cost: what the parts of the backbone cost.
        max_rows: at most so many rows are in flight at once; None for as many as the batch has
            images, which is what fits in memory without mmdiscard.
        max_cache_bytes: recorded inputs are kept up to this size; states whose parent's inputs were
            dropped are computed from the image.

    Raises:
        MMDiscardError: if ``max_rows`` is not a whole number of at least 1.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Levels],
        hooks: StateHooks,
        cost: CostModel,
        max_rows: int | None = None,
        max_cache_bytes: int = GIBIBYTE,
    ) -> None:
        self.forward = forward
        self.hooks = hooks
        self.cost = cost
        self.max_rows = check_max_rows(max_rows)
        self.max_cache_bytes = max_cache_bytes
        self._empty_rows = 0  # rows of the dummy batch that re-enters: 0, or 1 if that is refused

    def start(self, images: Tensor) -> 'PrefixRun':
        """Begin a batch ``(N, 3, H, W)``."""
        return PrefixRun(self, images)

    def whole(self, images: Tensor, states: Tensor, **record: object) -> tuple[Levels, dict]:
        """Compute rows from their images."""
        return self._run(images, states, **record)

    def enter(
        self, images: Tensor, states: Tensor, entry: int, fed: dict, **record: object
    ) -> tuple[Levels, dict]:
        """Compute rows from the inputs of the group ``entry``; levels before it are not filled."""
        while True:
            try:
                return self._run(images[: self._empty_rows], states, entry=entry, fed=fed, **record)
            except (RuntimeError, ZeroDivisionError, ValueError):
                if self._empty_rows:
                    raise
                self._empty_rows = 1

    def _run(self, images: Tensor, states: Tensor, **options: object) -> tuple[Levels, dict]:
        with self.hooks.select(states, **options) as selection:
            try:
                levels = self.forward(images)
            except ReachedEnd:
                levels = ()
        return levels, selection.recorded


@dataclass
class _Record:
    """What rows of one forward left for their children to enter with; emptied when evicted.

    Attributes:
        inputs: by group column and member name, ``(M, C, H, W)``.
        levels: by index, the output levels ``(M, C, h, w)`` in front of one of those groups, which
            children do not compute again.
    """

    inputs: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    levels: dict[int, Tensor] = field(default_factory=dict)

    def bytes(self) -> int:
        tensors = [t for members in self.inputs.values() for t in members.values()]
        return sum(t.numel() * t.element_size() for t in [*tensors, *self.levels.values()])

    def evict(self) -> None:
        self.inputs, self.levels = {}, {}


@dataclass
class _Step:
    """One state of one image that is to be computed.

    Attributes:
        key: image and state.
        position: where it stands among the rows asked for; None for a parent nobody asked for.
        columns: groups at which descendants will branch off.
    """

    key: Key
    position: int | None = None
    columns: set[int] = field(default_factory=set)

    @property
    def entry(self) -> int | None:
        return last_decided(self.key[1])

    @property
    def generation(self) -> int:
        return sum(index != 0 for index in self.key[1])


class PrefixRun:
    """One batch of images, over one or several rounds of a search.

    Attributes:
        cost: what was computed so far, in units of a plain forward of one image.
    """

    def __init__(self, executor: PrefixExecutor, images: Tensor) -> None:
        self.cost = 0.0
        self._executor = executor
        self._images = images
        self._groups = executor.hooks.space.groups
        self._records: dict[Key, tuple[_Record, int]] = {}  # with the row of the key
        self._kept: list[_Record] = []  # oldest first

    def compute(self, rows: Rows, more_to_come: bool = False) -> Iterator[Computed]:
        """Yield the rows in parts, each row once, parents before children.

        Args:
            rows: what to compute.
            more_to_come: whether later calls may ask for descendants of these states.
        """
        keys = list(zip(rows.images.tolist(), map(tuple, rows.states.tolist()), strict=True))
        batches: dict[tuple, list[_Step]] = defaultdict(list)
        for step in self._plan(keys, more_to_come):
            batches[step.generation, step.position is None, step.entry].append(step)
        limit = self._executor.max_rows or len(self._images)
        for order in sorted(batches, key=lambda o: (o[0], -1 if o[2] is None else o[2], o[1])):
            steps = batches[order]
            for start in range(0, len(steps), limit):
                yield from self._take(steps[start : start + limit])

    def _plan(self, keys: Sequence[Key], more_to_come: bool) -> Iterable[_Step]:
        """The steps for ``keys`` and for the parents that they need."""
        steps: dict[Key, _Step] = {}
        for position, key in enumerate(keys):
            self._step(steps, key).position = position
        if more_to_come:
            for step in map(steps.get, keys):
                first_open = 0 if step.entry is None else step.entry + 1
                step.columns.update(range(first_open, len(self._groups)))
        return steps.values()

    def _step(self, steps: dict[Key, _Step], key: Key) -> _Step:
        """The step of ``key``, with those of its ancestors told to record what it enters with."""
        if key not in steps:
            steps[key] = _Step(key)
            column = last_decided(key[1])
            if column is not None and parent_of(key) not in self._records:
                self._step(steps, parent_of(key)).columns.add(column)
        return steps[key]

    def _take(self, steps: Sequence[_Step]) -> Iterator[Computed]:
        """Compute steps of one generation and entry, those with a lost parent from the image."""
        entry = steps[0].entry
        able = [step for step in steps if entry is not None and self._parent_has(step, entry)]
        rest = [step for step in steps if step not in able]
        # Those that can enter go first: what the others record may push their parents' inputs out.
        for part, start in ((able, entry), (rest, None)):
            if part:
                yield from self._forward(part, start)

    def _forward(self, steps: Sequence[_Step], entry: int | None) -> Iterator[Computed]:
        """One forward, entered at ``entry``; what was asked for of it."""
        index = torch.tensor([step.key[0] for step in steps])
        states = torch.tensor([step.key[1] for step in steps])
        columns = sorted(set().union(*(step.columns for step in steps)))
        asked = steps[0].position is not None
        options = dict(record=columns, stop=not asked and not self._in_front(columns))
        if entry is None:
            whole_batch = torch.equal(index, torch.arange(len(self._images)))
            images = self._images if whole_batch else self._images[index.to(self._images.device)]
            levels, inputs = self._executor.whole(images, states, **options)
        else:
            images = self._images
            parents = [self._records[parent_of(step.key)] for step in steps]
            fed = {
                name: _gather([(record.inputs[entry][name], row) for record, row in parents])
                for name in self._groups[entry].members
            }
            levels, inputs = self._executor.enter(images, states, entry, fed, **options)
            levels = self._fill(levels, entry, parents)
        self._account(len(steps), entry, max(columns, default=None) if options['stop'] else None)
        if columns:
            shallow = self._in_front(columns)
            self._keep(steps, _Record(inputs, {i: levels[i] for i in shallow if levels}))
        if asked:
            positions = torch.tensor([step.position for step in steps])
            yield Computed(Rows(index, states), self._images, levels, positions)

    def _parent_has(self, step: _Step, column: int) -> bool:
        record, _ = self._records.get(parent_of(step.key), (_Record(), 0))
        return column in record.inputs

    def _in_front(self, columns: Sequence[int]) -> set[int]:
        """Output levels that children which enter at one of these groups take from their parent."""
        every = set(range(self._executor.cost.num_levels))
        return set().union(*(every - set(self._groups[column].levels) for column in columns))

    def _fill(self, levels: Levels, entry: int, parents: Sequence[tuple[_Record, int]]) -> Levels:
        """Take output levels that lie in front of ``entry`` from the parents."""
        behind = self._groups[entry].levels
        return tuple(
            level
            if i in behind or not levels
            else _gather([(record.levels[i], row) for record, row in parents])
            for i, level in enumerate(levels)
        )

    def _keep(self, steps: Sequence[_Step], record: _Record) -> None:
        self._kept.append(record)
        self._records.update({step.key: (record, row) for row, step in enumerate(steps)})
        size = sum(kept.bytes() for kept in self._kept)
        while size > self._executor.max_cache_bytes:
            oldest = self._kept.pop(0)
            size -= oldest.bytes()
            oldest.evict()

    def _account(self, rows: int, entry: int | None, stop: int | None) -> None:
        self.cost += rows * self._executor.cost.between(entry, stop) / len(self._images)


def last_decided(state: State) -> int | None:
    """Column of the last group whose index is not 0; None for the default state."""
    return max((column for column, index in enumerate(state) if index), default=None)


def parent_of(key: Key) -> Key:
    """The same image, with the last index that is not 0 set to 0."""
    image, state = key
    column = last_decided(state)
    return image, state[:column] + (0,) + state[column + 1 :]


def _gather(rows: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Rows of several tensors as one batch."""
    first = rows[0][0]
    if all(tensor is first for tensor, _ in rows):
        index = [row for _, row in rows]
        if index == list(range(len(first))):
            return first
        return first[torch.tensor(index, device=first.device)]
    return torch.stack([tensor[row] for tensor, row in rows])
