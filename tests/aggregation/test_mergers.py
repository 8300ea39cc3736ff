import math

import pytest
import torch

from mmdiscard.aggregation import EntropyMerger, MeanMerger


@pytest.mark.parametrize('shape', [(5,), (5, 3, 4)], ids=['classes', 'dense'])
def test_mean(shape):
    views = torch.rand(3, *shape).softmax(1)
    torch.testing.assert_close(MeanMerger().merge(iter(views)), views.mean(0))


@pytest.mark.parametrize('shape', [(5,), (5, 3, 4)], ids=['classes', 'dense'])
def test_entropy_weighs_views_place_by_place(shape):
    views = (torch.randn(3, *shape) * 3).softmax(1)
    weights = 1 - torch.special.entr(views.double()).sum(1, keepdim=True) / math.log(5)
    expected = (weights * views).sum(0) / weights.sum(0)
    torch.testing.assert_close(
        EntropyMerger().merge(iter(views)).double(), expected, rtol=1e-4, atol=1e-6
    )


def test_one_channel_is_a_binary_probability():
    views = torch.tensor([[[[0.5, 0.9]]], [[[0.99, 0.1]]]])
    merged = EntropyMerger().merge(iter(views))
    assert merged[0, 0, 0].item() == pytest.approx(0.99, abs=1e-4)  # 0.5 says nothing
    assert merged[0, 0, 1].item() == pytest.approx(0.5, abs=1e-6)


def test_views_that_say_nothing_are_averaged():
    views = torch.full((2, 4), 0.25)
    assert torch.equal(EntropyMerger().merge(iter(views)), views[0])
