"""Procedures, metrics from sums over images, intervals, and the choice."""

import numpy as np
import pytest

from mmdiscard.tuning import Procedure, bootstrap, candidates
from mmdiscard.tuning.gains import Gain, choose, pareto
from mmdiscard.tuning.measures import BINS, MeanIoU, TopOne


def gain(mean, low):
    return Gain(50 + mean, mean, low, 2 * mean - low)


def test_intervals_are_those_of_resampled_images():
    rng = np.random.default_rng(0)
    measure = MeanIoU(classes=3)
    statistics = rng.integers(0, 50, (20, 2, measure.length)).astype(float)
    statistics[:, :, 3:9] += 100  # areas, larger than what they have in common
    statistics[:, :, 2::3][:, :, :3] *= np.arange(20)[:, None, None] % 3 == 0
    found = bootstrap(statistics, measure, resamples=200, seed=3)

    def miou(sums):
        inter, predicted, labels = sums[:3], sums[3:6], sums[6:9]
        union = predicted + labels - inter
        return 100 * np.mean([i / u for i, u in zip(inter, union, strict=True) if u > 0])

    draws = np.random.default_rng(3).multinomial(20, np.full(20, 1 / 20), size=200)
    gains = []
    for times in draws:
        drawn = np.repeat(statistics, times, axis=0).sum(0)
        gains.append(miou(drawn[1]) - miou(drawn[0]))
    sums = statistics.sum(0)
    assert found[1].mean == pytest.approx(miou(sums[1]) - miou(sums[0]))
    assert [found[1].low, found[1].high] == pytest.approx(np.percentile(gains, [2.5, 97.5]))
    assert (found[0].mean, found[0].low, found[0].high) == (0, 0, 0)


def test_likelihood_and_calibration_error():
    measure = TopOne()
    sums = np.zeros(measure.length)
    sums[:3] = 3, 4, -2.0  # hits, images, log likelihood
    confidences, hits = sums[3 : 3 + BINS], sums[3 + BINS :]
    confidences[14], hits[14] = 1.9, 2
    confidences[7], hits[7] = 1.0, 0.5
    assert measure.value(sums) == 75
    assert measure.likelihood(sums) == 0.5
    assert measure.calibration_error(sums) == pytest.approx(100 * (0.1 + 0.5) / 4)


def test_a_choice_is_certain_and_not_too_dear():
    gains = [gain(0, 0), gain(1, 0.5), gain(3, -0.1), gain(2, 0.1), gain(4, 3)]
    costs = [1.0, 1.5, 2.0, 2.08, 4.0]
    assert choose(gains, costs, 2.0) == 3  # 2.08 is 2 within what times vary by
    assert choose(gains, costs, 1.5) == 1
    assert choose(gains, costs, 1.2) == 0
    assert choose(gains, costs, 4.0) == 4
    assert pareto(gains, costs) == [0, 1, 2, 4]


def test_procedures_are_sets_of_views_with_and_without_states():
    found = candidates([0.75, 1.0, 1.25], True, {'plain': 1.0, 'two': 1.5}, most=4.0)
    names = [one.name for one in found]
    assert names[0] == 'plain' and len(names) == len(set(names))
    assert {'size 0.75', 'sizes 1/1.25', 'sizes 0.75/1 + flip', 'two + flip'} < set(names)
    assert 'two + sizes 0.75/1/1.25' not in names  # at a cost of 4.7
    assert found[names.index('two + flip')].predicted_cost({'two': 1.5}) == 3
    found = candidates([0.75], True, {'plain': 1.0, 'two': 1.5}, 9.0, alone=['two'])
    assert [one for one in found if one.states == 'two'] == [Procedure(states='two')]
    assert not any(one.flip for one in candidates([1.0], False, {'plain': 1.0}, most=9.0))
    both = Procedure((1.0, 1.25), True)
    assert both.views == ((1.0, False), (1.0, True), (1.25, False), (1.25, True))
