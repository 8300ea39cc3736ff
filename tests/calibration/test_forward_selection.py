"""Forward selection against a plain reading of it, and files of the states that it chose."""

import contextlib
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdiscard import MMDiscardError
from mmdiscard.calibration import ForwardSelection
from mmdiscard.search import (
    Budget,
    Feedback,
    FixedStates,
    GreedySearch,
    Prices,
    SpreadStates,
    gain_per_cost,
    write_states,
)
from mmdiscard.subsampling import Fingerprint, GroupPrint, StateSpace, SubsamplingGroup

SPACE = StateSpace(
    [
        SubsamplingGroup('early', ('e',), (2, 2), (4, 4)),
        SubsamplingGroup('late', ('l',), (2, 2), (8, 8)),
    ]
)
PRICES = Prices(before=(0.25, 0.5), backbone=0.75, head=0.25)
MADE_FOR = Fingerprint(
    'ImageClassifier',
    'ResNet',
    (GroupPrint('early', ('e',), (2, 2), (4, 4)), GroupPrint('late', ('l',), (2, 2), (8, 8))),
    (64, 64),
)


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


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-500, 500).map(lambda percent: percent / 100),
    st.floats(0.01, 3),
    st.floats(0.01, 3),
)
def test_cheaper_is_never_worse(gain, price, other):
    low, high = sorted((price, other))
    assert gain_per_cost(gain, low) >= gain_per_cost(gain, high)
    assert gain_per_cost(gain + 0.01, price) > gain_per_cost(gain, price)
    assert np.sign(gain_per_cost(gain, price)) == np.sign(gain)


def test_a_greedy_search_per_cost_goes_on_where_states_are_cheap():
    factors = [(3, 1), (2, 1), (2, 1)]
    space = StateSpace([SubsamplingGroup(str(f), (), f, (1, 1)) for f in factors])
    prices = Prices((0.0, 0.2, 0.9), backbone=1.0, head=0.0)
    scores = dict.fromkeys(space, 0.5) | {(1, 0, 0): 0.3, (2, 0, 0): 0.31, (1, 1, 0): 0.32}

    def found(per_cost):
        states = []
        rounds = GreedySearch(6, per_cost=per_cost).rounds(1, space, prices)
        rows = next(rounds)
        with contextlib.suppress(StopIteration):
            while True:
                new = [tuple(state) for state in rows.states.tolist()]
                states += new
                rows = rounds.send(Feedback(torch.tensor([scores[state] for state in new])))
        return states

    # Both take these; then the best score is (2, 0, 0) at a group whose states cost 0.8, and
    # (1, 1, 0) has states at 0.1.
    both = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    assert found(False) == [*both, (2, 1, 0)]
    assert found(True) == [*both, (1, 1, 1)]


# ----------------------------------------------------------------------------------------- files
@pytest.fixture
def file(tmp_path):
    def write(states=((0, 0), (0, 3)), **content):
        path = tmp_path / 'states.json'
        write_states(path, MADE_FOR, states, content)
        return path

    return write


def test_fixed_states_come_from_a_file(file):
    search = FixedStates(file=str(file(loss=[1.0, 0.5])))
    search.prepare(SPACE, MADE_FOR)
    assert search.states_in(SPACE).tolist() == [[0, 0], [0, 3]]


def test_states_for_other_groups_are_refused_with_the_reason(file):
    other = Fingerprint('ImageClassifier', 'ResNet', MADE_FOR.groups[1:], (64, 64))
    with pytest.raises(
        MMDiscardError,
        match=r'states.json does not fit the model: made for 2 groups \(early, late\), the model '
        r'searches 1 \(late\)',
    ):
        FixedStates(file=file()).prepare(StateSpace(SPACE.groups[1:]), other)


@pytest.mark.parametrize('states', [[], [[0]], [[0, 'a']], [[0, 0], 3], [[0, True]]])
def test_damaged_states_are_refused(file, states):
    path = file()
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(states=states)))
    with pytest.raises(MMDiscardError, match='states.json is damaged'):
        FixedStates(file=path)


def test_states_that_do_not_exist_are_refused(file):
    with pytest.raises(MMDiscardError, match="0..3 for group 'late'"):
        FixedStates(file=file([[0, 4]])).prepare(SPACE, MADE_FOR)


@pytest.mark.parametrize('arguments', [dict(), dict(states=[[0, 0]], file='a.json')])
def test_either_states_or_a_file(arguments):
    with pytest.raises(MMDiscardError, match='either `states`, .* or a `file`'):
        FixedStates(**arguments)
