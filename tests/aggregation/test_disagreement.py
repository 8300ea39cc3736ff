"""The Jensen-Shannon divergence, against its definition."""

import math

import pytest
import torch

from mmdiscard.aggregation import Disagreement, translate
from mmdiscard.aggregation.disagreement import entropy_in_bits, probabilities_of


def of(predictions, **kwargs):
    """Disagreement of predictions ``(P, N, K, ...)``, added one after the other."""
    found = Disagreement(predictions.shape[1], **kwargs)
    for one in predictions:
        found.add(torch.arange(len(one)), one)
    return found.result()


@pytest.mark.parametrize('shape', [(4, 3, 7), (4, 3, 7, 5, 6)], ids=['classified', 'segmented'])
def test_it_is_the_mean_divergence_from_the_mean(shape):
    predictions = torch.randn(shape, generator=torch.manual_seed(0)).mul(3).softmax(2)
    mean = predictions.mean(0)
    divergence = (predictions * (predictions / mean).log2()).sum(2).mean(0)
    torch.testing.assert_close(of(predictions), divergence, rtol=1e-4, atol=1e-6)


def test_two_that_exclude_one_another_disagree_by_one_bit():
    torch.testing.assert_close(of(torch.eye(2)[:, None]), torch.ones(1))
    same = torch.tensor([0.2, 0.8]).expand(3, 1, 2)
    assert of(same).abs().max() < 1e-6


@pytest.mark.parametrize('classes', [1, 5])
def test_independent_classes_are_binary_decisions_each(classes):
    predictions = torch.rand(3, 2, classes, generator=torch.manual_seed(0))
    binary = torch.stack([predictions, 1 - predictions], 3)  # states, images, classes, yes and no
    expected = of(binary.flatten(1, 2)).view(2, classes).mean(1)
    torch.testing.assert_close(of(predictions, independent=True), expected)
    if classes == 1:
        torch.testing.assert_close(of(predictions), expected)


def test_predictions_are_moved_and_kept():
    first, second = torch.rand(2, 2, 3, 8, 8, generator=torch.manual_seed(0)).softmax(2)
    kept, shift = first.clone(), torch.tensor([[2, 1], [0, 3]])
    found = Disagreement(2)
    found.add(torch.arange(2), first)
    found.add(torch.arange(2), second, shift)
    moved = torch.stack([first, translate(second, shift)])
    torch.testing.assert_close(found.result(), of(moved))
    assert torch.equal(first, kept)


def test_images_may_have_different_numbers_of_predictions():
    first, second = torch.rand(2, 2, 3, generator=torch.manual_seed(0)).softmax(2)
    found = Disagreement(2)
    found.add(torch.arange(2), first)
    found.add(torch.tensor([1]), second[1:])
    assert found.result()[0] == 0
    torch.testing.assert_close(found.result()[1:], of(torch.stack([first, second])[:, 1:]))


def test_probabilities_and_entropy_by_kind_of_head():
    logits = torch.randn(2, 4)
    torch.testing.assert_close(probabilities_of(logits), logits.softmax(1))
    torch.testing.assert_close(probabilities_of(logits, True), logits.sigmoid())
    torch.testing.assert_close(probabilities_of(logits[:, :1]), logits[:, :1].sigmoid())
    torch.testing.assert_close(entropy_in_bits(torch.full((1, 8), 1 / 8)), torch.full((1,), 3.0))
    assert math.isclose(float(entropy_in_bits(torch.full((1, 8), 0.5), True)), 1.0, rel_tol=1e-6)
