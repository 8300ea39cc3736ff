"""Gates: thresholds, their files, and what they say of rows."""

import json

import pytest
import torch

from mmdiscard import MMDiscardError
from mmdiscard.search import (
    GATE_FILE,
    EntropyGate,
    Feedback,
    GreedySearch,
    MarginGate,
    Signals,
    SpreadStates,
)
from mmdiscard.subsampling import Fingerprint, GroupPrint, StateSpace, SubsamplingGroup

SPACE = StateSpace([SubsamplingGroup('layer2.0', (), (2, 2), (4, 4))])
MADE_FOR = Fingerprint(
    'ImageClassifier', 'ResNet', (GroupPrint('layer2.0', (), (2, 2), (4, 4)),), (64, 64), 7
)
OTHER = Fingerprint('ImageClassifier', 'Swin', MADE_FOR.groups, (64, 64), 7)


@pytest.fixture
def file(tmp_path):
    """Writes a gate's file; keyword arguments change what it says."""

    def write(**content):
        path = tmp_path / 'gate.json'
        GATE_FILE.write(path, MADE_FOR, dict(gate='EntropyGate', threshold=0.25) | content)
        return path

    return write


def signals(entropy, margin):
    return Signals(None, None, lambda: torch.tensor(entropy), lambda: torch.tensor(margin))


@pytest.mark.parametrize(
    'gate, expected',
    [
        (EntropyGate(0.25), [True, True, False]),
        (MarginGate(0.25), [False, True, True]),
        (EntropyGate(0), [False, False, False]),
        (MarginGate(0), [True, True, True]),
    ],
)
def test_confident_is_at_the_threshold_or_beyond(gate, expected):
    seen = signals([0.2, 0.25, 0.3], [0.2, 0.25, 0.3])
    assert gate.confident(seen).tolist() == expected


@pytest.mark.parametrize('gate', [EntropyGate, MarginGate])
def test_doubt_up_to_the_limit_is_confident(gate):
    seen = signals([0.2, 0.25, 0.3], [0.2, 0.25, 0.3])
    uncertainty = gate(0.5).uncertainty(seen)
    for level in (0.22, 0.5, 0.76, 0.9):
        assert (
            gate(gate.threshold_at(level)).confident(seen).tolist()
            == (uncertainty <= level).tolist()
        )


def test_a_gate_reads_its_threshold_from_a_file(file):
    gate = EntropyGate(file=file())
    assert gate.threshold == 0.25
    gate.prepare(MADE_FOR)


@pytest.mark.parametrize(
    'search', [lambda gate: GreedySearch(2, gate=gate), lambda gate: SpreadStates(2, gate)]
)
def test_searches_refuse_a_gate_of_another_model(file, search):
    search = search(dict(type='EntropyGate', file=str(file())))
    search.prepare(SPACE, MADE_FOR)
    search.prepare(SPACE)
    with pytest.raises(MMDiscardError, match='gate.json does not fit .* ResNet, this one has Swin'):
        search.prepare(SPACE, OTHER)


@pytest.mark.parametrize(
    'content, words',
    [
        (dict(gate='MarginGate'), 'made for MarginGate, not for EntropyGate'),
        (dict(threshold=2), 'gate.json is damaged .*from 0 to 1'),
        (dict(threshold=None), 'gate.json is damaged'),
        (dict(format='mmdiscard states'), "holds 'mmdiscard states', not 'mmdiscard gate'"),
        (dict(version=9), 'has version 9 of its format, this mmdiscard reads version 1'),
    ],
)
def test_files_of_another_kind_are_refused(file, content, words):
    with pytest.raises(MMDiscardError, match=words):
        EntropyGate(file=file(**content))


def test_files_that_are_absent_or_cut_short_are_refused(file, tmp_path):
    with pytest.raises(MMDiscardError, match='cannot read .*absent.json.*mmdiscard.calibrate'):
        EntropyGate(file=tmp_path / 'absent.json')
    path = file()
    path.write_text(path.read_text()[:40])
    with pytest.raises(MMDiscardError, match='damaged'):
        EntropyGate(file=path)
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(MMDiscardError, match='something else'):
        EntropyGate(file=path)


@pytest.mark.parametrize('arguments', [dict(), dict(threshold=0.5, file='a.json')])
def test_either_a_threshold_or_a_file(arguments):
    with pytest.raises(MMDiscardError, match='either a threshold from 0 to 1 or a `file`'):
        EntropyGate(**arguments)


@pytest.mark.parametrize('threshold', [-0.1, 1.5, True, '0.5'])
def test_thresholds_outside_0_to_1_are_refused(threshold):
    with pytest.raises(MMDiscardError, match='threshold from 0 to 1'):
        MarginGate(threshold)


@pytest.mark.parametrize('gate_after', [0, True, 1.5])
def test_gates_are_asked_after_a_whole_number_of_states(gate_after):
    with pytest.raises(MMDiscardError, match='gate_after has to be a whole number of states'):
        SpreadStates(2, dict(type='EntropyGate', threshold=0.5), gate_after)


def test_a_gate_may_be_asked_after_several_states():
    gate = dict(type='EntropyGate', threshold=0.5)
    rounds = SpreadStates(4, gate, gate_after=2).rounds(3, SPACE, None)
    assert next(rounds).images.tolist() == [0, 1, 2, 0, 1, 2]
    confident = torch.tensor([False, True, False, False, False, True])
    assert rounds.send(Feedback(confident=confident)).images.tolist() == [0, 0]
