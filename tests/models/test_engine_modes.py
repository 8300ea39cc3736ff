"""However an ensemble computes its states, it merges what the plain loop over them gives."""

import pytest
import torch
from small_models import (
    SHUFFLENET,
    SMALL_RESNET,
    SMALL_SWIN,
    assert_near,
    classifier,
    images,
    mit_segmentor,
)

import mmdiscard
from mmdiscard.execution import MemoryLimits
from mmdiscard.search import each_of

CHANNELS = {
    'ResNet': (SMALL_RESNET, 32),
    'Swin': (SMALL_SWIN, 64),
    'ShuffleNet': (SHUFFLENET, 1024),
}
MODELS = {
    name: lambda backbone=backbone, channels=channels: classifier(
        backbone=backbone, channels=channels
    )
    for name, (backbone, channels) in CHANNELS.items()
}
MODELS['MiT'] = mit_segmentor
MEAN = dict(type='AverageAggregator', on='logits', align='none')
GREEDY = dict(type='GreedySearch', budget=9)
SEARCHES = {
    'greedy': GREEDY,
    'deep first': dict(GREEDY, order='deep_first'),
    'random': dict(GREEDY, criterion=dict(type='RandomCriterion')),
    'cost': dict(GREEDY, budget=dict(cost=2.5)),
    'gate': dict(GREEDY, gate=dict(type='EntropyGate', threshold=0.8)),
    'spread': dict(type='SpreadStates', budget=6),
    'spread, gate': dict(
        type='SpreadStates', budget=5, gate=dict(type='EntropyGate', threshold=0.8)
    ),
    'exhaustive': dict(type='ExhaustiveSearch'),
}
LIMITS = [{}, dict(max_rows=2), dict(max_cache_bytes=0), dict(max_rows=50, max_cache_bytes=50_000)]
IMAGES = 3


@pytest.fixture(scope='module', params=MODELS.values(), ids=MODELS)
def model(request):
    return request.param()


def attach(model, search=GREEDY, groups=(-2, -1), **limits):
    return mmdiscard.attach(model, dict(groups=list(groups), input_size=64), search, MEAN, **limits)


def of_the_plain_loop(ensemble, inputs):
    """The mean over the states that the last search chose, image by image."""
    found = ensemble.last
    return torch.cat(
        [
            ensemble.evaluate(inputs[i : i + 1], found.states[i, : found.counts[i]]).logits.mean(1)
            for i in range(len(inputs))
        ]
    )


@torch.no_grad()
@pytest.mark.parametrize('search', SEARCHES.values(), ids=SEARCHES)
def test_every_search_equals_the_plain_loop(model, search):
    inputs = images(IMAGES)
    with attach(model, search) as ensemble:
        found = ensemble.predict(inputs)
        assert ensemble.last.counts.max() > 1
        assert_near(found, of_the_plain_loop(ensemble, inputs))
        assert ensemble.last.cost >= ensemble.last.bound - 1e-6


@torch.no_grad()
@pytest.mark.parametrize('limits', LIMITS, ids=str)
@pytest.mark.parametrize('search', ['greedy', 'spread'])
def test_every_limit_equals_the_plain_loop(model, search, limits):
    inputs = images(IMAGES)
    with attach(model, SEARCHES[search], (-3, -2, -1), **limits) as ensemble:
        assert_near(ensemble.predict(inputs), of_the_plain_loop(ensemble, inputs))


@torch.no_grad()
def test_the_cost_of_a_batch_is_the_bound_where_no_row_is_a_dummy(model):
    with attach(model, groups=(-3, -2, -1)) as ensemble:
        ensemble.predict(images(IMAGES))
        dummies = set(ensemble.executor.entries.dummy_rows)
        assert (ensemble.last.cost == pytest.approx(ensemble.last.bound)) == (dummies == {0})


@torch.no_grad()
def test_exploring_gives_every_state_of_every_image(model):
    inputs = images(IMAGES)
    with attach(model) as ensemble:
        states = ensemble.space.first(6)
        rows = each_of(states, torch.arange(IMAGES))
        expected = ensemble.evaluate(inputs, states).logits.transpose(0, 1).flatten(0, 1)
        seen = 0
        for part in ensemble.explore(inputs, states):
            assert torch.equal(part.rows.states, rows.states[part.positions])
            assert_near(part.logits, expected[part.positions])
            seen += len(part.rows)
    assert seen == len(rows)


# ------------------------------------------------------------------------------ out of GPU memory
class SmallMemory:
    """A backbone's forward that has room for so many rows."""

    def __init__(self, ensemble, rows):
        self.rows = rows
        self.forward = ensemble.executor.forward
        ensemble.executor.forward = self

    def __call__(self, inputs):
        if len(inputs) > self.rows:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory.')
        return self.forward(inputs)


@torch.no_grad()
def test_out_of_memory_halves_the_rows_and_says_so(monkeypatch):
    told = []
    monkeypatch.setattr(
        'mmdiscard.models.ensemble.print_log', lambda message, *args, **kwargs: told.append(message)
    )
    inputs = images(4)
    with attach(classifier()) as ensemble:
        expected = ensemble.predict(inputs)
        SmallMemory(ensemble, rows=2)
        assert_near(ensemble.predict(inputs), expected)
        assert ensemble.executor.limits == MemoryLimits(
            2, mmdiscard.execution.DEFAULT_CACHE_BYTES // 2
        )
        ensemble.predict(inputs)
    assert len(told) == 1 and 'max_rows=2' in told[0]


@torch.no_grad()
def test_out_of_memory_with_one_row_is_the_end():
    with attach(classifier()) as ensemble:
        SmallMemory(ensemble, rows=0)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            ensemble.predict(images(4))
