"""Files of calibrated states, and the search that reads them."""

import json

import pytest

from mmdiscard import MMDiscardError
from mmdiscard.search import STATE_FILE, FixedStates
from mmdiscard.subsampling import Fingerprint, GroupPrint, StateSpace, SubsamplingGroup

SPACE = StateSpace(
    [
        SubsamplingGroup('early', ('e',), (2, 2), (4, 4)),
        SubsamplingGroup('late', ('l',), (2, 2), (8, 8)),
    ]
)
MADE_FOR = Fingerprint(
    'ImageClassifier',
    'ResNet',
    (GroupPrint('early', ('e',), (2, 2), (4, 4)), GroupPrint('late', ('l',), (2, 2), (8, 8))),
    (64, 64),
)


@pytest.fixture
def file(tmp_path):
    def write(states=((0, 0), (0, 3)), **content):
        path = tmp_path / 'states.json'
        STATE_FILE.write(path, MADE_FOR, dict(states=states, **content))
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
