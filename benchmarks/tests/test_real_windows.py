"""Second looks in windows of real segmentors: sums of entropy, prices, thresholds."""

import numpy as np
import pytest
import torch

from benchmarks.real.windows import first, pasted, sums
from benchmarks.real.windows_report import price, threshold, with_windows
from mmdiscard.models.windows import Windows

WINDOWS = Windows(((0, 0, 0), (0, 2, 2), (0, 0, 4)), (4, 4), 0, (8, 8))


def test_entropy_of_a_window_is_that_which_none_before_it_has():
    assert sums(torch.ones(1, 8, 8), WINDOWS).tolist() == [16, 12, 12]


def test_labels_of_the_first_windows_are_pasted():
    before, inside = torch.zeros(1, 1, 8, 8), torch.ones(3, 1, 4, 4)
    for count, area in ((1, 16), (2, 28), (3, 40)):
        assert pasted(before, first(WINDOWS, count), inside).sum() == area
    assert before.sum() == 0


@pytest.mark.parametrize(
    ('look', 'expected'),
    [('flip', 1), ('state and flip', 2), ('crop and state', 1.9), ('state, flip, both', 2.9)],
)
def test_states_of_one_view_share_what_they_have_in_common(look, expected):
    assert price(look, 1.9) == pytest.approx(expected)


def test_a_threshold_gives_the_least_sure_images_more_windows():
    entropy = np.array([[9.0, 8, 7, 6], [3, 2, 1, 0]])
    limit = threshold(entropy, average=2)
    counts = (entropy >= limit).sum(1)
    assert counts.tolist() == [4, 0]
    plain, found = np.zeros((2, 1, 1)), np.arange(1, 9).reshape(2, 4, 1, 1)
    assert with_windows(found, plain, counts).ravel().tolist() == [4, 0]
