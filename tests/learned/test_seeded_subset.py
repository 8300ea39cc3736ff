"""Random subsets of data sets, wrapped or not."""

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmdiscard.errors import MMDiscardError
from mmdiscard.learned import SeededSubset


class Numbers(BaseDataset):
    """The numbers from ``first`` on, fifty of them."""

    METAINFO = dict(classes=('one',))

    def __init__(self, first, **options):
        self.first = first
        super().__init__(pipeline=[lambda info: info['number']], **options)

    def load_data_list(self):
        return [dict(number=self.first + number) for number in range(50)]


def test_a_subset_is_the_same_for_the_same_seed():
    numbers = list(range(50))
    one, same_seed, other = (SeededSubset(numbers, 10, seed) for seed in (1, 1, 2))
    assert list(one) == list(same_seed) != list(other)
    assert len(set(one)) == 10 and len(SeededSubset(numbers, 500)) == 50


@pytest.mark.parametrize('lazy', [False, True])
def test_images_are_drawn_from_all_data_sets_of_a_wrapper(lazy):
    both = ConcatDataset([Numbers(0, lazy_init=lazy), Numbers(100, lazy_init=lazy)], lazy_init=lazy)
    subset = SeededSubset(both, 40)
    numbers = list(subset)
    assert numbers == [index if index < 50 else index + 50 for index in subset.indices]
    assert 10 < sum(number < 100 for number in numbers) < 30
    assert subset.metainfo['classes'] == ('one',)
    twice = RepeatDataset(Numbers(0, lazy_init=lazy), 2, lazy_init=lazy)
    assert sorted(SeededSubset(twice, 500)) == sorted(2 * list(range(50)))


def test_subsets_that_are_too_small_are_refused():
    with pytest.raises(MMDiscardError, match='do not fill one batch'):
        SeededSubset([], 10)
    with pytest.raises(MMDiscardError, match='at least 1 image; got 0'):
        SeededSubset([1], 0)
