"""Gain per cost: the rule by which states compete for a budget in costs."""

import contextlib

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdiscard.search import Feedback, GreedySearch, Prices, gain_per_cost
from mmdiscard.subsampling import StateSpace, SubsamplingGroup


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
