"""Whatever is reused, features come out as from the plain state-by-state loop."""

from dataclasses import replace

import pytest
import torch
from small_models import images

from mmdiscard.execution import (
    MemoryLimits,
    PrefixExecutor,
    ReferenceExecutor,
    find_reentry_points,
    measure_cost,
)
from mmdiscard.search import Rows

IMAGES = 3


class Setup:
    """Both executors on a backbone."""

    def __init__(self, hooked):
        self.forward, self.hooks = hooked.forward, hooked.hooks
        self.space = self.hooks.space
        self.inputs = images(IMAGES)
        self.cost = measure_cost(hooked.found, hooked.found.groups)
        self.entries = find_reentry_points(self.forward, self.hooks, self.inputs[:2])

    def plain(self, rows):
        parts = ReferenceExecutor(self.forward, self.hooks).run(self.inputs, rows)
        return [torch.cat(level) for level in zip(*(p.features for p in parts), strict=True)]

    def reused(self, rounds, **limits):
        """Features in the order asked for, and the run; ``rounds`` are lists of `Rows`."""
        limits = MemoryLimits(**limits)
        executor = PrefixExecutor(self.forward, self.hooks, self.cost, self.entries, limits)
        run = executor.start(self.inputs)
        levels = []
        for rows in rounds:
            if len(rounds) > 1:
                rows = replace(rows, open=torch.ones_like(rows.states, dtype=torch.bool))
            parts = list(run.compute(rows))
            positions = torch.cat([part.positions for part in parts])
            assert positions.sort().values.tolist() == list(range(len(rows)))
            for part in parts:
                assert torch.equal(part.rows.states, rows.states[part.positions])
                assert torch.equal(part.rows.images, rows.images[part.positions])
            order = positions.argsort()
            features = zip(*(part.features for part in parts), strict=True)
            levels.append([torch.cat(level)[order] for level in features])
        return [torch.cat(level) for level in zip(*levels, strict=True)], run


@pytest.fixture(scope='module')
def setup(hooked):
    return Setup(hooked)


def random_states(space, count, seed=0):
    """Distinct states, the default first, with many zeros so that prefixes are shared."""
    generator = torch.Generator().manual_seed(seed)
    limits = torch.tensor([group.num_indices for group in space.groups])
    states = (torch.rand(count, len(limits), generator=generator) * limits).long()
    states[torch.rand(states.shape, generator=generator) < 0.5] = 0
    states[0] = 0
    return states.unique(dim=0)


def rows_of(states):
    return Rows(torch.arange(IMAGES).repeat(len(states)), states.repeat_interleave(IMAGES, 0))


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize(
    'limits',
    [
        {},
        {'max_rows': 1},
        {'max_rows': 2},
        {'max_rows': 50},
        {'max_cache_bytes': 1},
        {'max_rows': 2, 'max_cache_bytes': 100_000},
    ],
    ids=str,
)
def test_known_states_equal_the_plain_loop(setup, limits):
    rows = rows_of(random_states(setup.space, 10))
    found, _ = setup.reused([rows], **limits)
    assert_same(found, setup.plain(rows))


@torch.no_grad()
@pytest.mark.parametrize('limits', [{}, {'max_rows': 2}, {'max_cache_bytes': 200_000}], ids=str)
def test_images_that_go_different_ways_equal_the_plain_loop(setup, limits):
    default = rows_of(setup.space.default(1))
    own = [random_states(setup.space, 12, seed)[1:3] for seed in range(IMAGES)]
    second = Rows(torch.arange(IMAGES), torch.stack([states[0] for states in own]))
    third = Rows(torch.tensor([0, 2]), torch.stack([own[0][1], own[2][1]]))
    found, _ = setup.reused([default, second, third], **limits)
    every = [default, second, third]
    together = Rows(
        torch.cat([rows.images for rows in every]), torch.cat([rows.states for rows in every])
    )
    assert_same(found, setup.plain(together))


@torch.no_grad()
def test_without_the_default_state(setup):
    rows = rows_of(random_states(setup.space, 8)[3:])
    found, _ = setup.reused([rows])
    assert_same(found, setup.plain(rows))


@torch.no_grad()
@pytest.mark.parametrize('first', [0, 3], ids=['with default', 'without'])
@pytest.mark.parametrize('rounds', [1, 3])
def test_cost_is_the_bound(setup, first, rounds):
    states = random_states(setup.space, 14)[first:]
    states = states[torch.randperm(len(states))]
    _, run = setup.reused([rows_of(part) for part in states.chunk(rounds)])
    bound = setup.cost.prices(head_per_state=False).of(states.tolist())
    dummies = setup.entries.dummy_rows
    if set(dummies) == {0}:
        assert run.costs.mean() == pytest.approx(bound)
    else:  # a dummy row goes along, where the backbone refuses none
        most = len(states) * max(setup.cost.before) / IMAGES
        assert bound - 1e-6 <= run.costs.mean() <= bound + most


@torch.no_grad()
def test_forgetting_everything_costs_more_but_never_fails(setup):
    rows = rows_of(random_states(setup.space, 8))
    _, kept = setup.reused([rows])
    _, forgot = setup.reused([rows], max_cache_bytes=1)
    assert forgot.costs.mean() > kept.costs.mean()
