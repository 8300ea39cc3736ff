"""Fingerprints through JSON, and the words for what does not fit."""

import json
import re
from dataclasses import replace

import pytest
from small_models import classifier, segmentor

import mmdiscard
from mmdiscard import MMDiscardError
from mmdiscard.search import STATE_FILE
from mmdiscard.subsampling import Fingerprint, SubsamplingGroup, find_subsampling

GROUPS = [
    SubsamplingGroup('layer2.0', ('layer2.0.conv1', 'layer2.0.downsample.0'), (2, 2), (4, 4), (0,)),
    SubsamplingGroup('layer3.0', ('layer3.0.conv1', 'layer3.0.downsample.0'), (2, 2), (8, 8), (0,)),
]


@pytest.fixture(scope='module')
def model():
    return classifier()


@pytest.fixture
def mine(model):
    return Fingerprint.of(model, model.backbone, GROUPS, (64, 96), channels=(4, 8))


def test_it_says_what_a_file_depends_on(mine):
    assert (mine.model, mine.backbone) == ('ImageClassifier', 'ResNet')
    assert (mine.classes, mine.channels, mine.input_size) == (7, (4, 8), (64, 96))
    assert [group.name for group in mine.groups] == ['layer2.0', 'layer3.0']


def test_it_comes_back_from_json(mine):
    assert Fingerprint.from_dict(json.loads(json.dumps(mine.to_dict()))) == mine
    assert mine.differences(mine) == []


def test_groups_of_real_backbones_are_told_apart():
    model = segmentor()
    groups = find_subsampling(model.backbone, (64, 64))
    first, rest = (Fingerprint.of(model, model.backbone, g, (64, 64)) for g in (groups, groups[1:]))
    (line,) = first.differences(rest)
    assert line.startswith(f'made for {len(groups)} groups (')
    assert f'the model searches {len(groups) - 1} (' in line


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(model='EncoderDecoder'), 'for the model ImageClassifier, this one has Enc'),
        (dict(backbone='Swin'), 'for the backbone ResNet, this one has Swin'),
        (dict(classes=19), 'number of classes: 7, this one has 19'),
        (dict(channels=(4, 4)), r'channels \(4, 8\), this one has \(4, 4\)'),
        (dict(groups=()), r'for 2 groups \(layer2.0, layer3.0\), the model searches 0'),
    ],
)
def test_every_difference_is_named(mine, change, words):
    with pytest.raises(MMDiscardError, match=f'^states.json does not fit the model: .*{words}'):
        mine.check(replace(mine, **change), 'states.json')


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(name='layer4.0'), 'group layer3.0 there is layer4.0 here'),
        (dict(factor=(4, 4)), 'group layer3.0 has factor 2x2 there, 4x4 here'),
        (dict(stride=(4, 4)), 'group layer3.0 has input stride 8x8 there, 4x4 here'),
        (dict(members=('a',)), 'group layer3.0 consists of layer3.0.conv1, .* there, of a here'),
    ],
)
def test_every_difference_of_a_group_is_named(mine, change, words):
    first, second = mine.groups
    (line,) = mine.differences(replace(mine, groups=(first, replace(second, **change))))
    assert re.search(words, line)


def test_what_is_not_known_is_no_difference(mine):
    assert mine.differences(replace(mine, classes=None, channels=())) == []


@pytest.mark.parametrize('field', ['model', 'backbone', 'groups', 'input_size', 'classes'])
def test_damaged_files_are_refused(mine, field):
    whole = mine.to_dict()
    for content in ([], None, {k: v for k, v in whole.items() if k != field}):
        with pytest.raises(MMDiscardError, match='fingerprint is damaged'):
            Fingerprint.from_dict(content)
    with pytest.raises(MMDiscardError, match='fingerprint is damaged'):
        Fingerprint.from_dict(whole | {field: -1})


def test_an_ensemble_has_one_and_checks_files_against_it(tmp_path):
    own = classifier()
    with mmdiscard.attach(own, search=dict(type='SpreadStates', budget=2)) as ensemble:
        fingerprint = ensemble.fingerprint
        width = len(ensemble.groups)
    assert (fingerprint.backbone, len(fingerprint.groups)) == ('ResNet', width)
    path = tmp_path / 'states.json'
    STATE_FILE.write(path, fingerprint, dict(states=[[0] * width, [1] * width]))
    search = dict(type='FixedStates', file=str(path))
    with mmdiscard.attach(own, search=search) as ensemble:
        assert ensemble.fingerprint == fingerprint and ensemble.budget == 2
    with pytest.raises(MMDiscardError, match=f'made for {width} groups .* the model searches 1'):
        mmdiscard.attach(own, subsampling=dict(groups=[-1]), search=search)
