"""Prefix reuse: every distinct prefix of the states is computed once.

States that agree up to a group share everything before it. So a state begins where it first
differs from every state computed so far: the backbone is entered at that group, on the inputs that
its members received for a state with the same beginning. Images that went different ways are still
computed together, group by group. The deepest beginnings come first, which leaves little to keep.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..search import Rows
from ..subsampling import StateHooks
from ..utils import on_device_of
from .cost_model import CostModel
from .memory_limits import MemoryLimits
from .prefix_cache import CachedPrefix, PrefixCache, PrefixKey, State
from .reentry import ReentryPoints
from .reference_executor import BackboneOutputs, Levels

START = -1  # in the place of a column: begin from the image


class PrefixExecutor:
    """Computes states from the cached group inputs of other states.

    Args:
        forward: the backbone, ``(M, 3, H, W)`` to its output levels.
        hooks: put states into that backbone, and inputs in front of its groups.
        cost: what the parts of the backbone cost.
        entries: at which groups the backbone can be entered.
        limits: bounds on memory; may be exchanged between batches.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Levels],
        hooks: StateHooks,
        cost: CostModel,
        entries: ReentryPoints,
        limits: MemoryLimits | None = None,
    ) -> None:
        self.forward = forward
        self.hooks = hooks
        self.cost = cost
        self.entries = entries
        self.limits = limits or MemoryLimits()

    def start(self, images: Tensor) -> 'PrefixRun':
        """Begin a batch ``(N, 3, H, W)``."""
        return PrefixRun(self, images)


@dataclass(eq=False)
class _Job:
    """One state of one image that is to be computed."""

    image: int
    state: State
    position: int
    entry: int = START
    keep: set[int] = field(default_factory=set)
    feeds: dict[int, list['_Job']] = field(default_factory=lambda: defaultdict(list))

    def spot(self, column: int) -> PrefixKey:
        return self.image, column, self.state[:column]

    @property
    def columns(self) -> set[int]:
        """Columns of the groups whose inputs are recorded for this job."""
        return self.keep | self.feeds.keys()


class PrefixRun:
    """One batch of images, over one or several rounds of a search.

    Attributes:
        costs: ``(N,)``, what was computed so far of each image, in plain forwards.
    """

    def __init__(self, executor: PrefixExecutor, images: Tensor) -> None:
        self.costs = torch.zeros(len(images), dtype=torch.float64)
        self._executor = executor
        self._images = images
        self._groups = executor.hooks.space.groups
        self._cache = PrefixCache(executor.limits.max_cache_bytes)
        self._users: dict[PrefixKey, int] = {}  # of rows that nobody wants after this call

    def compute(self, rows: Rows) -> Iterator[BackboneOutputs]:
        """Yield the rows in parts, each row once."""
        ready: dict[int, list[_Job]] = defaultdict(list)  # by where they can begin
        for job in self._plan(rows):
            ready[job.entry].append(job)
        limit = self._executor.limits.rows(len(self._images))
        while ready:
            entry = max(ready)
            jobs = sorted(ready.pop(entry), key=lambda job: job.position)
            if len(jobs) > limit:
                ready[entry] = jobs[limit:]
            jobs = self._able(jobs[:limit], entry, ready)
            if jobs:
                yield self._forward(jobs, entry)
            for job in jobs:
                for column, fed in job.feeds.items():
                    ready[column] += fed

    def _plan(self, rows: Rows) -> list[_Job]:
        """Jobs that can start now; the others start from what these compute."""
        states = map(tuple, rows.states.tolist())
        jobs = [
            _Job(image, state, position)
            for position, (image, state) in enumerate(
                zip(rows.images.tolist(), states, strict=True)
            )
        ]
        wanted = [()] * len(jobs) if rows.open is None else map(_columns, rows.open)
        for job, columns in zip(jobs, wanted, strict=True):
            job.keep.update(columns)
        planned, owners, previous = [], [], None
        # Next to each other, states of an image share the longest beginning that any two share.
        for job in sorted(jobs, key=lambda job: (job.image, job.state)):
            if previous is None or previous.image != job.image:
                owners = [job] * len(self._groups)
            shared = -1 if owners[0] is job else _agreement(previous.state, job.state)
            owners[shared + 1 :] = [job] * (len(self._groups) - shared - 1)
            if not self._assign(job, owners[: shared + 1]):
                planned.append(job)
            job.keep = {column for column in job.keep if self._is_new(job, column, owners)}
            previous = job
        return planned

    def _assign(self, job: _Job, owners: Sequence[_Job]) -> bool:
        """Set where a job starts; return whether another job of this call computes that start.

        ``owners`` are, by column, the jobs that are the first to compute what this one needs there.
        """
        for column in reversed(range(len(self._groups))):
            if not self._executor.entries.possible(column):
                continue
            if job.spot(column) in self._cache:
                job.entry = column
                return False
            if column < len(owners) and owners[column].entry < column:
                job.entry = column
                owners[column].feeds[column].append(job)
                return True
        return False

    def _is_new(self, job: _Job, column: int, owners: Sequence[_Job]) -> bool:
        """Whether to cache what a job computes in front of a group."""
        possible = self._executor.entries.possible(column)
        return possible and column > job.entry and owners[column] is job

    def _able(
        self, jobs: Sequence[_Job], entry: int, ready: dict[int, list[_Job]]
    ) -> Sequence[_Job]:
        """The jobs whose cached start still exists; the others are given an earlier start."""
        if entry == START:
            return jobs
        able = []
        for job in jobs:
            if job.spot(entry) in self._cache:
                able.append(job)
            else:
                known = [column for column in range(entry) if job.spot(column) in self._cache]
                ready[max(known, default=START)].append(job)
        return able

    def _forward(self, jobs: Sequence[_Job], entry: int) -> BackboneOutputs:
        """One forward, entered at ``entry``."""
        index = torch.tensor([job.image for job in jobs])
        states = torch.tensor([job.state for job in jobs])
        columns = sorted(set().union(*(job.columns for job in jobs)))
        images = self._images
        if entry == START:
            if not torch.equal(index, torch.arange(len(images))):
                images = images[on_device_of(index, images)]
            levels, inputs = self._run(images, states, record=columns)
        else:
            rows = [self._cache[job.spot(entry)] for job in jobs]
            fed = {
                name: _gather([(slab.inputs[name], row) for slab, row in rows])
                for name in self._groups[entry].members
            }
            for job in jobs:
                self._release(job.spot(entry))
            dummy = self._executor.entries.dummy_rows[entry]
            levels, inputs = self._run(images[:dummy], states, entry=entry, fed=fed, record=columns)
            levels = self._fill(levels, entry, rows)
        self._account(index, entry)
        for column in columns:
            self._keep(jobs, column, inputs[column], levels)
        return BackboneOutputs(
            Rows(index, states), images, levels, torch.tensor([job.position for job in jobs])
        )

    def _run(self, images: Tensor, states: Tensor, **options: object) -> tuple[Levels, dict]:
        with self._executor.hooks.select(states, **options) as selection:
            return self._executor.forward(images), selection.recorded

    def _fill(self, levels: Levels, entry: int, rows: Sequence[tuple[CachedPrefix, int]]) -> Levels:
        """Copy output levels in front of ``entry`` from the rows that the jobs started from."""
        behind = self._groups[entry].levels
        return tuple(
            level if i in behind else _gather([(slab.levels[i], row) for slab, row in rows])
            for i, level in enumerate(levels)
        )

    def _keep(
        self, jobs: Sequence[_Job], column: int, inputs: dict[str, Tensor], levels: Levels
    ) -> None:
        """Cache the inputs of a group for the jobs that ask for it."""
        rows = [row for row, job in enumerate(jobs) if column in job.columns]
        spots = [jobs[row].spot(column) for row in rows]
        for row, spot in zip(rows, spots, strict=True):
            if column not in jobs[row].keep:
                self._users[spot] = len(jobs[row].feeds[column])
        in_front = set(range(len(levels))) - set(self._groups[column].levels)
        self._cache.add(
            CachedPrefix(
                inputs={name: _gather([(t, row) for row in rows]) for name, t in inputs.items()},
                levels={i: _gather([(levels[i], row) for row in rows]) for i in in_front},
                saves=self._executor.cost.before[column],
                spots=set(spots),
            ),
            spots,
        )

    def _release(self, spot: PrefixKey) -> None:
        """Decrease the use count of a row; free it at 0 if it was kept for this call alone."""
        if spot in self._users:
            self._users[spot] -= 1
            if self._users[spot] <= 0:
                del self._users[spot]
                self._cache.drop(spot)

    def _account(self, images: Tensor, entry: int) -> None:
        model = self._executor.cost
        if entry == START:
            cost = model.backbone
        else:
            dummy = self._executor.entries.dummy_rows[entry] / len(images)  # they share it
            cost = model.after(entry) + dummy * model.before[entry]
        self.costs += cost * images.bincount(minlength=len(self._images))


def _columns(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def _agreement(a: State, b: State) -> int:
    """Length of the common prefix of two states, as a column."""
    differing = (column for column, (i, j) in enumerate(zip(a, b, strict=True)) if i != j)
    return next(differing, len(a) - 1)


def _gather(rows: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Select rows of several tensors as one batch."""
    first = rows[0][0]
    if all(tensor is first for tensor, _ in rows):
        index = [row for _, row in rows]
        if index == list(range(len(first))):
            return first
        return first[on_device_of(torch.tensor(index), first)]
    return torch.stack([tensor[row] for tensor, row in rows])
