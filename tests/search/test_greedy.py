"""The greedy tree against an independent reading of the paper's algorithm."""

import heapq
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdiscard import MMDiscardError
from mmdiscard.search import Feedback, GreedySearch, Prices, Rows
from mmdiscard.subsampling import StateSpace, SubsamplingGroup

FACTORS = [(1, 1), (2, 1), (1, 3), (2, 2), (2, 3), (3, 3)]


def space_of(*factors):
    return StateSpace([SubsamplingGroup(f'g{i}', (), f, (1, 1)) for i, f in enumerate(factors)])


def run(budget, space, tables, prices=None, confident=None, **options):
    """States per image, and the rows of every round, for scores looked up in ``tables``."""
    prices = prices or Prices((0.0,) * space.num_groups, 0.0, 0.0)
    rounds = GreedySearch(budget, **options).rounds(len(tables), space, prices)
    found, asked = [[] for _ in tables], []
    rows = next(rounds)
    try:
        while True:
            asked.append(rows)
            pairs = list(zip(rows.images.tolist(), map(tuple, rows.states.tolist()), strict=True))
            for image, state in pairs:
                found[image].append(state)
            scores = torch.tensor([tables[image][state] for image, state in pairs])
            rows = rounds.send(Feedback(scores, confident and confident(scores)))
    except StopIteration:
        return found, asked


def by_the_book(budget, space, scores):
    """One image. Entries are (score, creation number, state, groups decided); lower pops first."""

    def rank(state):
        return math.inf if math.isnan(scores[state]) else scores[state]

    sizes = [group.num_indices for group in space.groups]
    root = (0,) * len(sizes)
    found, created = [root], 1
    heap = [(rank(root), 0, root, 0)]
    while heap and len(found) < budget:
        _, _, state, group = heapq.heappop(heap)
        for index in range(sizes[group]):
            child = (*state[:group], index, *state[group + 1 :])
            if index > 0:
                if len(found) == budget:
                    break
                found.append(child)
            if group + 1 < len(sizes):
                heapq.heappush(heap, (rank(child), created, child, group + 1))
            created += 1
    return found


@st.composite
def problems(draw):
    """A state space, a budget, and for each of some images a score per state, many of them tied."""
    space = space_of(*draw(st.lists(st.sampled_from(FACTORS), min_size=1, max_size=4)))
    states = list(space)[:]
    values = draw(st.sampled_from([[0.0, 1.0], [0.0, 0.5, 1.0, math.nan], list(range(50))]))
    seed = draw(st.randoms(use_true_random=False))
    count = draw(st.integers(1, 3))
    tables = [{state: float(seed.choice(values)) for state in states} for _ in range(count)]
    return space, draw(st.integers(1, min(len(states), 40))), tables


@settings(max_examples=200, deadline=None)
@given(problems())
def test_tree_equals_the_book(problem):
    space, budget, tables = problem
    found, asked = run(budget, space, tables)
    assert found == [by_the_book(budget, space, table) for table in tables]
    for rows in asked:  # rows come in runs in which no image stands twice
        assert all(
            len(set(rows.images[run].tolist())) == run.stop - run.start for run in rows.runs()
        )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(FACTORS), min_size=1, max_size=3), st.integers(0, 99))
def test_full_budget_finds_every_state_once(factors, seed):
    space = space_of(*factors)
    noise = torch.rand(len(space), generator=torch.Generator().manual_seed(seed)).tolist()
    found, _ = run(len(space), space, [dict(zip(space, noise, strict=True))])
    assert sorted(found[0]) == list(space)


def test_the_best_node_is_expanded_at_its_first_undecided_group():
    space = space_of((2, 1), (2, 1), (2, 1))
    scores = dict.fromkeys(space, 5.0) | {(0, 0, 0): 3.0, (1, 0, 0): 1.0, (1, 1, 0): 2.0}
    (found,), _ = run(5, space, [scores])
    assert found == [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1)]


def test_the_budget_cuts_an_expansion_in_index_order():
    space = space_of((3, 3), (2, 2))
    (found,), asked = run(4, space, [{state: -sum(state) for state in space}])
    assert found == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert sum(map(len, asked)) == 4  # nothing is computed that is not used


def test_broken_predictions_are_expanded_last():
    space = space_of((2, 2), (2, 2))
    scores = {state: 1.0 for state in space}
    scores |= {(0, 0): math.nan, (1, 0): math.nan, (2, 0): math.inf, (3, 0): 9.0}
    (found,), _ = run(6, space, [scores])
    assert found[4:] == [(3, 1), (3, 2)]


@pytest.mark.parametrize('budget', [0, -1, 2.5, True, '4', None])
def test_budgets_that_are_no_count_are_refused(budget):
    with pytest.raises(MMDiscardError, match=f'whole number of states, at least 1; got {budget!r}'):
        GreedySearch(budget)


def test_a_budget_beyond_the_states_is_refused():
    GreedySearch(16).prepare(space_of((2, 2), (2, 2)))
    with pytest.raises(MMDiscardError, match=r'17 is more than the 16 states \(4 x 4\).*g0, g1'):
        GreedySearch(17).prepare(space_of((2, 2), (2, 2)))


@pytest.mark.parametrize(
    'criterion, words',
    [
        (dict(type='Wisdom'), "unknown criterion 'Wisdom'; choose one of .*EntropyCriterion"),
        (dict(type='RandomCriterion', sed=1), 'RandomCriterion: .*sed'),
        (dict(seed=1), 'criterion has to be a dict with a `type`'),
    ],
)
def test_unknown_criteria_are_refused(criterion, words):
    with pytest.raises(MMDiscardError, match=words):
        GreedySearch(2, criterion)


def test_runs_split_where_an_image_comes_again():
    rows = Rows(torch.tensor([0, 2, 0, 1, 2, 2]), torch.zeros(6, 1))
    assert list(rows.runs()) == [slice(0, 2), slice(2, 5), slice(5, 6)]


# ------------------------------------------------------------------------- order, costs and gates
@settings(max_examples=50, deadline=None)
@given(problems())
def test_deep_first_is_shallow_first_with_the_groups_turned_round(problem):
    space, budget, tables = problem
    turned = StateSpace(space.groups[::-1])
    mirrored = [{state[::-1]: score for state, score in table.items()} for table in tables]
    found, _ = run(budget, space, tables, order='deep_first')
    expected, _ = run(budget, turned, mirrored)
    assert found == [[state[::-1] for state in states] for states in expected]


@settings(max_examples=100, deadline=None)
@given(problems(), st.floats(1, 6), st.sampled_from(['shallow_first', 'deep_first']))
def test_a_cost_budget_is_kept_and_spent(problem, cost, order):
    space, _, tables = problem
    shares = [column / (space.num_groups + 1) for column in range(space.num_groups)]
    prices = Prices(tuple(0.75 * share for share in shares), backbone=0.75, head=0.25)
    found, _ = run(dict(cost=cost), space, tables, prices, order=order)
    branch = [prices.branch(c) for c, group in enumerate(space.groups) if group.num_indices > 1]
    for states in found:
        assert len(set(states)) == len(states)
        assert prices.of(states) <= cost + 1e-6
        assert len(states) == len(space) or prices.of(states) + max(branch) > cost - 1e-6


def test_a_gate_ends_an_image_once_a_state_is_confident():
    space = space_of((2, 2), (2, 2))
    never = {state: 0.5 for state in space}
    at_once = never | {(0, 0): 0.1}
    in_the_second_round = never | {(2, 0): 0.1}
    found, _ = run(
        12, space, [never, at_once, in_the_second_round], confident=lambda scores: scores < 0.2
    )
    assert [len(states) for states in found] == [12, 1, 4]


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(budget=dict(cost=0.5)), 'the first state is one'),
        (dict(budget=dict(cost='2')), 'the first state is one'),
        (dict(budget=dict(price=2)), 'takes `states` and `cost`'),
        (dict(budget={}), 'takes `states` and `cost`'),
        (dict(budget=4, order='random'), "unknown order 'random'"),
        (dict(budget=4, gate=dict(type='EntropyGate', threshold=2)), 'threshold from 0 to 1'),
        (dict(budget=4, gate=dict(type='Gate')), 'unknown gate'),
    ],
)
def test_orders_costs_and_gates_that_make_no_sense_are_refused(options, words):
    with pytest.raises(MMDiscardError, match=words):
        GreedySearch(**options)
