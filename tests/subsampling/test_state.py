import pytest
import torch

from mmdiscard import MMDiscardError
from mmdiscard.subsampling import StateSpace, SubsamplingGroup

STEM = SubsamplingGroup('stem', ('stem',), (2, 3), (1, 1), levels=(0, 1))
BLOCK = SubsamplingGroup('block', ('block.a', 'block.b'), (2, 2), (2, 3), levels=(1,))


@pytest.fixture
def space():
    return StateSpace([STEM, BLOCK])


def test_states_are_counted_and_listed_with_late_groups_first(space):
    states = list(space)
    assert len(space) == len(states) == 6 * 4
    assert states[:5] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    assert space.first(5).tolist() == [list(state) for state in states[:5]]
    assert space.default(2).tolist() == [[0, 0], [0, 0]]


def test_index_is_row_major_within_the_block(space):
    assert space.offsets(torch.tensor([[5, 2]])).tolist() == [[[1, 2], [1, 0]]]


def test_displacement_sums_offsets_times_input_strides(space):
    state = torch.tensor([[5, 3]])
    assert space.displacement(state).tolist() == [[1 + 2, 2 + 3]]
    assert space.displacement(state, level=0).tolist() == [[1, 2]]
    assert space.displacement(state, level=1).tolist() == [[3, 5]]


def test_period_is_the_output_stride_of_the_deepest_group(space):
    assert BLOCK.output_stride == (4, 6)
    assert space.period == (4, 6)


def test_check_gives_long_tensors_on_the_cpu(space):
    states = space.check(torch.tensor([[5, 3]], dtype=torch.int16))
    assert states.dtype == torch.long and states.tolist() == [[5, 3]]


@pytest.mark.parametrize(
    'states, words',
    [
        ([[0, 0, 0]], 'stem, block'),
        ([0, 0], 'shape'),
        ([[0.0, 0.0]], 'integers'),
        ([[6, 0]], "0..5 for group 'stem'"),
        ([[0, -1]], "0..3 for group 'block'"),
    ],
)
def test_check_refuses_what_does_not_fit(space, states, words):
    with pytest.raises(MMDiscardError, match=words):
        space.check(torch.tensor(states))
