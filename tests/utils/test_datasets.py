"""Wrappers of data sets are looked through, as configs and as built data sets."""

import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from torch.utils.data import Subset

from mmdiscard.utils import MIXING, REPEATING, draw, innermost_datasets, without_wrappers

ONE = dict(type='ImageNet', data_root='one', pipeline=[])
TWO = dict(type='ImageNet', data_root='two', pipeline=[])


def repeated(inner):
    return dict(type='RepeatDataset', times=3, dataset=inner)


def concatenated(*inner):
    return dict(type='ConcatDataset', datasets=list(inner))


@pytest.mark.parametrize(
    'dataset, roots',
    [
        (ONE, ['one']),
        (repeated(ONE), ['one']),
        (concatenated(ONE, TWO), ['one', 'two']),
        (repeated(concatenated(TWO, repeated(ONE))), ['two', 'one']),
    ],
)
def test_innermost_configs_are_found_and_can_be_changed(dataset, roots):
    dataset = ConfigDict(dataset)
    found = innermost_datasets(dataset)
    assert [inner.data_root for inner in found] == roots
    for inner in found:
        inner.pipeline = ['changed']
    assert str(dataset).count('changed') == len(roots)


def test_built_data_sets_are_looked_through_too():
    one, two = (BaseDataset(serialize_data=False, lazy_init=True) for _ in range(2))
    several = ConcatDataset([one, two], lazy_init=True)
    assert innermost_datasets(Subset(several, [0])) == [one, two]
    assert innermost_datasets(RepeatDataset(one, 2, lazy_init=True)) == [one]


def test_wrappers_are_left_out_by_type():
    fold = dict(type='KFoldDataset', fold=1, dataset=repeated(ONE))
    mixed = dict(type='mmseg.MultiImageMixDataset', pipeline=[1], dataset=concatenated(TWO, fold))
    dataset = repeated(mixed)
    plain_fold = dict(fold, dataset=ONE)
    assert without_wrappers(dataset, MIXING) == repeated(concatenated(TWO, fold))
    assert without_wrappers(dataset, REPEATING) == dict(
        mixed, dataset=concatenated(TWO, plain_fold)
    )
    assert without_wrappers(dataset, MIXING + REPEATING) == concatenated(TWO, plain_fold)
    assert dataset == repeated(mixed)


def test_a_draw_is_the_same_for_the_same_seed():
    # The images that calibrations and trainings of earlier versions used.
    assert draw(10, 4, seed=0) == [2, 4, 6, 7]
    assert draw(10, 4, seed=1) != draw(10, 4, seed=0)
    assert draw(3, 9, seed=5) == [0, 1, 2]
    large = draw(1000, 300, seed=2)
    assert large == sorted(set(large)) and len(large) == 300
    assert large == np.sort(np.random.default_rng(2).permutation(1000)[:300]).tolist()
