"""Merging with each candidate equals a prediction that uses those states."""

import pytest
import torch
from small_models import assert_near, classifier, images, mit_segmentor, segmentor

import mmdiscard
from mmdiscard.calibration import ExternalStates, merged_with_each

MEAN = dict(type='AverageAggregator', on='logits', align='exact')
ENTROPY = dict(type='EntropyAggregator', on='logits', align='exact')
FEATURES = dict(type='EntropyAggregator', on='features', align='bilinear')


@pytest.mark.parametrize(
    'make, groups, aggregator',
    [
        (classifier, 'inner', FEATURES),
        (segmentor, [-2, -1], MEAN),
        (segmentor, [-1], ENTROPY),
        (mit_segmentor, [0], MEAN),
    ],
)
@pytest.mark.parametrize('chosen', [0, 2])
def test_trials_equal_predictions(make, groups, aggregator, chosen):
    model, inputs = make(), images(2)
    settings = dict(subsampling=dict(groups=groups), aggregator=aggregator)
    with mmdiscard.attach(model, search=ExternalStates(), **settings) as ensemble:
        states = list(ensemble.space)
        generator = torch.Generator().manual_seed(chosen)
        order = torch.randperm(len(states) - 1, generator=generator).add(1).tolist()
        sets = [states[p] for p in [0, *order]][: chosen + 4]
        tried = dict(merged_with_each(ensemble, inputs, None, sets[:chosen], sets[chosen:]))
    assert sorted(tried) == list(range(len(sets) - chosen))
    for position, logits in tried.items():
        own = [list(state) for state in [*sets[:chosen], sets[chosen + position]]]
        search = dict(type='FixedStates', states=own)
        with torch.no_grad(), mmdiscard.attach(model, search=search, **settings) as ensemble:
            assert_near(logits, ensemble.predict(inputs))


def test_states_are_shared_as_the_prices_say():
    """All trials together cost no more than the prefix tree, and the head once each."""
    model, inputs = segmentor(), images(2)
    settings = dict(subsampling=dict(groups='all'), aggregator=MEAN, max_cache_bytes=2**30)
    with mmdiscard.attach(model, search=ExternalStates(), **settings) as ensemble:
        states = list(ensemble.space)[::3]
        rows = []
        forward = ensemble.adapter.backbone_patch.forward.original
        hooked = lambda x, **k: rows.append(len(x)) or forward(x, **k)  # noqa: E731
        ensemble.adapter.backbone_patch.forward.original = hooked
        list(merged_with_each(ensemble, inputs, None, states[:2], states[2:]))
    assert sum(rows) < 2 * len(states)  # most trials enter the backbone behind its beginning
