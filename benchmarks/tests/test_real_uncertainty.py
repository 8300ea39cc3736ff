"""Risk-coverage curves, gates of classifiers and disagreement of procedures, counted by hand."""

import json

import numpy as np
import pytest
import torch

from benchmarks.real import classifier_gates
from benchmarks.real.classifier_report import Logits
from benchmarks.real.risk import BINS, area_under_risk_coverage, histogram, interval
from benchmarks.real.segmentors import unsure_tiles
from benchmarks.real.uncertainty import disagreement, merged


def test_area_is_the_mean_error_rate_among_the_surest():
    random = np.random.default_rng(0)
    score = random.permutation(np.geomspace(1e-6, 3.9, 400))  # each in a bin of its own
    wrong = random.random(400) < score / 4
    errors = wrong[score.argsort()].cumsum() / np.arange(1, 401)
    found = area_under_risk_coverage(histogram(score, wrong))
    # The curve is integrated between the points, not summed at them.
    assert found == pytest.approx(errors.mean(), abs=2e-3)
    assert found < area_under_risk_coverage(histogram(-score + 4, wrong))


def test_equal_scores_have_the_error_rate_of_all():
    wrong = np.arange(10) < 3
    counts = histogram(np.full(10, 0.2), wrong)
    assert counts.shape == (2, BINS) and counts.sum(1).tolist() == [7, 3]
    assert area_under_risk_coverage(counts) == pytest.approx(0.3)


def test_the_interval_of_a_better_score_lies_below_zero():
    random = np.random.default_rng(0)
    wrong = random.random((30, 500)) < 0.2
    poor = random.random((30, 500))
    better = poor * 0.3 + wrong
    before, after = (
        np.stack([histogram(*pair) for pair in zip(score, wrong, strict=True)])
        for score in (poor, better)
    )
    gain, low, high = interval(before, after)
    assert low <= gain <= high < 0
    assert interval(before, before) == (0, 0, 0)


def test_disagreement_of_views_and_states_is_the_divergence_of_all():
    names = ('plain', 'plain 3', 'flip', 'flip 3')
    atoms = dict(zip(names, torch.randn(4, 3, 2, 2, generator=torch.manual_seed(0)), strict=True))
    alone, none = merged(atoms, [('plain',)])
    torch.testing.assert_close(alone, atoms['plain'].softmax(0))
    assert none.abs().max() < 1e-6
    _, views = merged(atoms, [('plain',), ('flip',)])
    torch.testing.assert_close(
        views, disagreement([atoms[name].softmax(0) for name in ('plain', 'flip')])
    )
    _, both = merged(atoms, [('plain', 'plain 3'), ('flip', 'flip 3')])
    _, states = merged(atoms, [('plain', 'plain 3')])
    assert (both > 0).all() and (states > 0).all()


def test_tiles_with_the_highest_mean_are_chosen():
    score = torch.zeros(60, 90)
    score[30:, 30:60] = 1
    assert torch.equal(unsure_tiles(score, 30, 1 / 6), score == 1)


def test_gates_look_at_the_least_sure_images_only(tmp_path):
    random, count = np.random.default_rng(0), 4000
    labels = random.integers(0, 5, count)
    margin = random.permutation(np.linspace(-2, 6, count))  # of the right class over one other
    plain = np.full((count, 5), -9, np.float16)
    plain[np.arange(count), (labels + 1) % 5] = 0
    plain[np.arange(count), labels] = margin
    flip = plain.copy()
    flip[np.arange(count), labels] = np.where(margin < 0, 9, margin)  # mends all that was wrong
    path = tmp_path / 'model_160_none.npz'
    np.savez(path, labels=labels, costs=json.dumps({}), plain=plain, flip=flip)
    logits = Logits(path)
    rows = classifier_gates.rows([logits])
    assert {row['look'] for row in rows} == {'flip'}
    for row in rows:
        assert row['looked'] == pytest.approx(row['share'], abs=0.04)
        assert row['cost'] == pytest.approx(1 + row['looked'])
        assert 0 < row['gain'][0] <= row['whole'][0]
        assert row['whole_cost'] == 2
    by_margin = [row['gain'][0] for row in rows if row['gate'] == 'margin']
    assert by_margin == sorted(by_margin)
    assert len(classifier_gates.table(rows)) == 4
    twice = classifier_gates.rows([logits, logits])
    assert [row['gain'] for row in twice] == [row['gain'] for row in rows]
