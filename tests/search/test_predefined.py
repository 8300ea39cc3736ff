import pytest
import torch

from mmdiscard import MMDiscardError
from mmdiscard.search import ExhaustiveSearch, Feedback, FixedStates, Prices, SpreadStates
from mmdiscard.subsampling import StateSpace, SubsamplingGroup


def group(name, factor, stride):
    return SubsamplingGroup(name, (name,), (factor, factor), (stride, stride))


FOUR = StateSpace([group('embed', 4, 1)])
TWICE = StateSpace([group('early', 2, 4), group('late', 2, 8)])


def displacements(budget, space):
    return space.displacement(SpreadStates(budget).states_in(space)).tolist()


def test_two_states_of_factor_four_lie_half_a_block_apart():
    assert displacements(2, FOUR) == [[0, 0], [2, 2]]


def test_four_states_of_factor_four_take_every_second_place():
    assert sorted(displacements(4, FOUR)) == [[0, 0], [0, 2], [2, 0], [2, 2]]


def test_two_groups_spread_over_the_cells_of_the_deepest():
    assert displacements(2, TWICE) == [[0, 0], [8, 8]]
    assert sorted(displacements(4, TWICE)) == [[0, 0], [0, 8], [8, 0], [8, 8]]


def test_late_groups_come_first_among_equals():
    states = SpreadStates(4).states_in(TWICE)
    assert (states[:, 0] == 0).all()


@pytest.mark.parametrize('space', [FOUR, TWICE], ids=['one group', 'two groups'])
def test_spread_states_are_distinct_and_grow_by_one(space):
    every = SpreadStates(len(space)).states_in(space)
    assert len(every.unique(dim=0)) == len(space)
    for budget in range(1, len(space)):
        assert torch.equal(SpreadStates(budget).states_in(space), every[:budget])


def farthest(points, period, chosen):
    """The distance of the point that a farthest-point selection takes next."""

    def distance(a, b):
        gaps = [abs(p - q) for p, q in zip(a, b, strict=True)]
        return sum(min(gap, period - gap) ** 2 for gap in gaps)

    reach = [min(distance(p, q) for q in chosen) for p in points]
    return max(reach), reach


@pytest.mark.parametrize('space, period', [(FOUR, 4), (TWICE, 16)], ids=['one', 'two'])
def test_every_next_state_is_one_of_the_farthest(space, period):
    points = [tuple(p) for p in space.displacement(space.first(len(space))).tolist()]
    chosen = [tuple(p) for p in displacements(len(space), space)]
    for count in range(1, len(chosen)):
        most, reach = farthest(points, period, chosen[:count])
        assert reach[points.index(chosen[count])] == most


@pytest.mark.parametrize('budget', [0, -3, 2.5, True, '4'])
def test_budgets_that_are_no_count_are_refused(budget):
    with pytest.raises(MMDiscardError, match='whole number of states, at least 1'):
        SpreadStates(budget)


def test_a_budget_beyond_the_states_is_refused():
    with pytest.raises(MMDiscardError, match='17 is more than the 16 states'):
        SpreadStates(17).prepare(FOUR)


def test_more_states_than_can_be_enumerated_are_refused():
    with pytest.raises(MMDiscardError, match='search fewer groups'):
        SpreadStates(4).prepare(StateSpace([group(str(i), 4, 1) for i in range(6)]))


FREE = Prices(before=(0.0, 0.0), backbone=0.0, head=0.0)
THIRDS = Prices(before=(0.25, 0.5), backbone=0.75, head=0.25)


def test_a_gate_keeps_confident_images_at_the_first_state():
    search = FixedStates([[0, 0], [0, 1], [3, 2]], gate=dict(type='EntropyGate', threshold=0.2))
    assert search.needs_prediction
    rounds = search.rounds(3, TWICE, FREE)
    assert next(rounds).states.tolist() == [[0, 0]] * 3
    rows = rounds.send(Feedback(confident=torch.tensor([True, False, False])))
    assert rows.images.tolist() == [1, 2, 1, 2]
    assert rows.states.tolist() == [[0, 1], [0, 1], [3, 2], [3, 2]]
    with pytest.raises(StopIteration):
        rounds.send(Feedback(confident=torch.tensor([False] * 4)))


def test_spread_states_end_where_the_money_does():
    # One state of the late group costs half a forward, one that changes the early group 0.75.
    everything = SpreadStates(16).states_in(TWICE)
    for cost in (1.0, 1.5, 1.9, 2.3, 3.0, 99.0):
        states = SpreadStates(dict(cost=cost)).states_in(TWICE, THIRDS)
        assert states.tolist() == everything[: len(states)].tolist()
        assert THIRDS.of(states.tolist()) <= cost + 1e-6
        more = everything[: len(states) + 1].tolist()
        assert len(states) == 16 or THIRDS.of(more) > cost
    both = SpreadStates(dict(cost=99.0, states=3))
    assert len(both.states_in(TWICE, THIRDS)) == 3


def test_fixed_states_are_given_to_every_image():
    search = FixedStates([[0, 1], [3, 2]])
    (rows,) = search.rounds(2, TWICE, FREE)
    assert rows.images.tolist() == [0, 1, 0, 1]
    assert rows.states.tolist() == [[0, 1], [0, 1], [3, 2], [3, 2]]
    assert search.most_states(TWICE, FREE) == 2


@pytest.mark.parametrize(
    'states, words',
    [
        ([[0]], r'early, late'),
        ([[0, 4]], "0..3 for group 'late'"),
        ([[0, 1], [0, 1]], 'twice'),
        ([[0, 1], [0]], 'FixedStates'),
        ([['a', 'b']], 'FixedStates'),
        ([], 'FixedStates'),
    ],
)
def test_fixed_states_that_do_not_fit_are_refused(states, words):
    with pytest.raises(MMDiscardError, match=words):
        FixedStates(states).prepare(TWICE)


def test_exhaustive_search_takes_every_state_up_to_a_limit():
    assert ExhaustiveSearch().states_in(TWICE).tolist() == [list(s) for s in TWICE]
    with pytest.raises(MMDiscardError, match='16 states is more than max_states=15'):
        ExhaustiveSearch(15).prepare(TWICE)
