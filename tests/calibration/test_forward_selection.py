"""Forward selection against a plain implementation of it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdiscard import MMDiscardError
from mmdiscard.calibration import ForwardSelection
from mmdiscard.search import (
    Budget,
    Prices,
    SpreadStates,
    gain_per_cost,
)
from mmdiscard.subsampling import StateSpace, SubsamplingGroup

SPACE = StateSpace(
    [
        SubsamplingGroup('early', ('e',), (2, 2), (4, 4)),
        SubsamplingGroup('late', ('l',), (2, 2), (8, 8)),
    ]
)
PRICES = Prices(before=(0.25, 0.5), backbone=0.75, head=0.25)


def loss_of(values):
    """A loss of a set of states: how far the mean of their values is from 0."""
    return lambda states: abs(sum(values[state] for state in states) / len(states))


def select(budget, loss, **options):
    selection = ForwardSelection(SPACE, PRICES, Budget.parse(budget), **options)
    while candidates := selection.candidates():
        selection.take([loss([*selection.states, state]) for state in candidates])
    return selection


@st.composite
def losses(draw):
    numbers = draw(st.lists(st.floats(-3, 3), min_size=16, max_size=16))
    return loss_of(dict(zip(SPACE, numbers, strict=True)))


@settings(max_examples=50, deadline=None)
@given(losses(), st.integers(1, 6))
def test_each_step_takes_the_state_that_lowers_the_loss_most(loss, budget):
    chosen = [(0, 0)]
    while len(chosen) < budget:
        rest = [state for state in SPACE if state not in chosen]
        chosen.append(min(rest, key=lambda state: loss([*chosen, state])))
    selection = select(budget, loss)
    assert selection.states == chosen
    assert [step.loss for step in selection.steps] == [
        loss(chosen[: n + 1]) for n in range(len(chosen))
    ]
    best = selection.best()
    assert best[-1].loss == min(step.loss for step in selection.steps)


@settings(max_examples=50, deadline=None)
@given(losses(), st.floats(1, 5))
def test_a_budget_in_costs_is_kept_and_spent_by_gain_per_cost(loss, cost):
    selection = select(dict(cost=cost), loss)
    steps, states = selection.steps, selection.states
    assert steps[-1].cost == pytest.approx(PRICES.of(states)) and PRICES.of(states) <= cost + 1e-6
    left = [state for state in SPACE if state not in states]
    assert all(PRICES.of([*states, state]) > cost for state in left)
    for before, step in zip(steps, steps[1:], strict=False):
        earlier = states[: states.index(step.state)]
        others = [s for s in SPACE if s not in earlier and PRICES.of([*earlier, s]) <= cost + 1e-9]
        promise = [
            float(
                gain_per_cost(
                    before.loss - loss([*earlier, s]), PRICES.of([*earlier, s]) - before.cost
                )
            )
            for s in others
        ]
        assert promise[others.index(step.state)] == max(promise)


def test_candidates_beyond_the_limit_are_those_farthest_apart():
    selection = ForwardSelection(SPACE, PRICES, Budget(states=3), candidates=4)
    assert selection.pool == [tuple(s) for s in SpreadStates(4).states_in(SPACE).tolist()]
    cheap = ForwardSelection(SPACE, PRICES, Budget(cost=1.6), candidates=99)
    assert cheap.pool == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_a_state_that_only_did_harm_is_left_out():
    values = dict.fromkeys(SPACE, 4.0) | {(0, 0): 1.0, (0, 1): -1.0}
    selection = select(4, loss_of(values))
    assert len(selection.steps) == 4
    assert [step.state for step in selection.best()] == [(0, 0), (0, 1)]


def test_broken_states_are_not_chosen_and_broken_models_are_named():
    selection = ForwardSelection(SPACE, PRICES, Budget(states=2))
    selection.take([1.0])
    losses = [math.nan] * len(selection.candidates())
    with pytest.raises(MMDiscardError, match='not a finite number for any state'):
        selection.take(losses)
    losses[3] = 7.0
    assert selection.take(losses).state == selection.pool[4]


def test_a_budget_beyond_the_states_is_refused():
    with pytest.raises(MMDiscardError, match='17 is more than the 16 states'):
        ForwardSelection(SPACE, PRICES, Budget(states=17))
