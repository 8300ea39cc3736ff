import pytest
import torch

from mmdiscard.search import DisplacementCriterion, EntropyCriterion, RandomCriterion, Rows, Signals


def unavailable():
    raise AssertionError('this criterion has no need of that')


def signals(displacement=None, keys=None, entropy=None):
    return Signals(
        displacement=displacement,
        image_keys=unavailable if keys is None else lambda: torch.tensor(keys),
        entropy=unavailable if entropy is None else lambda: entropy,
        margin=unavailable,
    )


def rows_of(states):
    return Rows(torch.zeros(len(states), dtype=torch.long), torch.tensor(states))


def test_entropy_is_the_score():
    assert EntropyCriterion.needs_prediction
    entropy = torch.tensor([0.1, 0.9], dtype=torch.float64)
    scores = EntropyCriterion().score(rows_of([[0], [1]]), signals(entropy=entropy))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, entropy.float())


@pytest.mark.parametrize('largest, order', [(False, [0, 2, 1]), (True, [1, 2, 0])])
def test_displacement_goes_by_euclidean_length(largest, order):
    displacement = torch.tensor([[0, 0], [3, 4], [0, 4]])
    criterion = DisplacementCriterion(largest)
    scores = criterion.score(rows_of([[0], [1], [2]]), signals(displacement))
    assert not criterion.needs_prediction
    assert scores.abs().tolist() == [0, 5, 4]
    assert scores.argsort().tolist() == order


def test_random_scores_go_by_seed_image_and_state_alone():
    states = [[0, 1], [2, 3], [1, 0], [0, 0]]
    whole = RandomCriterion(7).score(rows_of(states), signals(keys=[11, 11, 22, 33]))
    parts = [
        RandomCriterion(7).score(rows_of([state]), signals(keys=[key]))
        for state, key in zip(states, [11, 11, 22, 33], strict=True)
    ]
    assert torch.equal(whole, torch.cat(parts))
    other_seed = RandomCriterion(8).score(rows_of(states), signals(keys=[11, 11, 22, 33]))
    other_image = RandomCriterion(7).score(rows_of(states), signals(keys=[1, 2, 3, 4]))
    assert not (whole == other_seed).any() and not (whole == other_image).any()


@pytest.mark.parametrize('seed', [0, -1, 2**40])
def test_random_scores_are_spread_evenly(seed):
    states = [[a, b, c] for a in range(16) for b in range(16) for c in range(16)]
    scores = RandomCriterion(seed).score(rows_of(states), signals(keys=[5] * len(states)))
    assert ((scores >= 0) & (scores < 1)).all()
    assert torch.histc(scores, 8, 0, 1).sub(512).abs().max() < 100  # 4.7 standard deviations
    assert len(scores.unique()) > 4000
