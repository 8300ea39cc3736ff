"""Learned weights in output space, inside real segmentors."""

import pytest
import torch
from small_models import assert_near, classifier, images, mit_segmentor

from mmdiscard import attach
from mmdiscard.aggregation import translate
from mmdiscard.errors import MMDiscardError
from mmdiscard.learned import PhaseAggregator

PHASE = dict(type='PhaseAggregator')
SEARCH = dict(type='SpreadStates', budget=5)


def ensemble_with_weights(model, search=SEARCH):
    ensemble = attach(model, subsampling=dict(groups=[0, 1]), search=search, aggregator=PHASE)
    generator = torch.Generator().manual_seed(1)
    for parameter in ensemble.aggregator.module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return ensemble


def test_untrained_it_is_the_average():
    model, found = mit_segmentor(), []
    for aggregator in (PHASE, dict(type='AverageAggregator', on='logits', align='exact')):
        with torch.no_grad(), attach(model, search=SEARCH, aggregator=aggregator) as ensemble:
            found.append(ensemble.predict(images(2)))
    assert_near(*found)


def test_weights_go_by_the_place_of_a_pixel_in_the_cells_of_a_state():
    x = images(2)
    with torch.no_grad(), ensemble_with_weights(mit_segmentor()) as ensemble:
        found = ensemble.predict(x)
        module, states = ensemble.aggregator.module['0'], ensemble.last.states[0]
        assert module.table.shape == (8, 8)  # strides 4 and 8 in front of and behind the second
        logits = torch.cat([e.output for s in states for e in ensemble.explore(x, s[None])])
        logits = logits.unflatten(0, (5, 2))
        weights = module.table.exp().repeat(8, 8).expand(5, 1, 64, 64)
        weights = translate(weights, ensemble.space.displacement(states)).unsqueeze(1)
        expected = (logits * weights).sum(0) / weights.sum(0) + module.offset[:, None, None]
        assert_near(found, expected)


def test_training_computes_what_prediction_does():
    x, found = images(2), []
    with ensemble_with_weights(mit_segmentor()) as ensemble:
        for training in (False, True):
            ensemble.aggregator.module.train(training)
            found.append(ensemble.predict(x).detach())
    assert_near(*found)


def test_one_state_alone_is_bitwise_the_plain_model_however_trained():
    model, x = mit_segmentor(), images(2)
    with torch.no_grad():
        with attach(model, search=SEARCH | dict(budget=1)) as ensemble:
            plain = ensemble.predict(x)
        with ensemble_with_weights(model, SEARCH | dict(budget=1)) as ensemble:
            assert torch.equal(ensemble.predict(x), plain)


def test_images_that_a_gate_stops_are_not_corrected():
    model, x = mit_segmentor(), images(2)
    gate = dict(type='EntropyGate', threshold=1.0)  # every image is confident
    with torch.no_grad(), ensemble_with_weights(model, SEARCH | dict(gate=gate)) as ensemble:
        found = ensemble.predict(x)
        plain = ensemble.evaluate(x, torch.zeros(1, 2).long()).logits[:, 0]
    assert torch.equal(found, plain)


def test_parts_that_are_off_are_not_trained():
    with attach(mit_segmentor(), search=SEARCH, aggregator=PHASE | dict(phase=False)) as ensemble:
        module = ensemble.aggregator.module['0']
        assert not module.table.requires_grad and module.offset.requires_grad


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(MMDiscardError, match="use align='exact'"):
        PhaseAggregator(align='none')
    with pytest.raises(MMDiscardError, match='nothing to learn'):
        PhaseAggregator(phase=False, offset=False)
    with pytest.raises(MMDiscardError, match='translates output maps'):
        attach(classifier(), search=SEARCH, aggregator=PHASE)
