"""Gates inside real models: who goes on, what is computed for them, and what that costs."""

import numpy as np
import pytest
import torch
from small_models import classifier, images, segmentor

import mmdiscard
from mmdiscard.calibration import GateTraces, RecordedSearch
from mmdiscard.registry import SEARCHES
from mmdiscard.search import EntropyGate, MarginGate

GREEDY = dict(type='GreedySearch', budget=9)
DEEP = dict(type='GreedySearch', budget=dict(cost=3.0), order='deep_first', per_cost=True)
SPREAD = dict(type='SpreadStates', budget=4)
AFTER_TWO = SPREAD | dict(gate_after=2)
SETTINGS = {
    classifier: dict(subsampling=dict(groups='all')),
    segmentor: dict(subsampling=dict(groups=[-2, -1])),
}


def recorded(make, search, gate, inputs):
    """GateTraces of a search on a model without the gate."""
    recording = RecordedSearch(SEARCHES.build(dict(search)), gate)
    with torch.no_grad(), mmdiscard.attach(make(), search=recording, **SETTINGS[make]) as ensemble:
        ensemble.predict(inputs)
    return GateTraces(recording.traces)


@pytest.mark.parametrize('make', [classifier, segmentor])
@pytest.mark.parametrize(
    'search', [GREEDY, DEEP, SPREAD, AFTER_TWO], ids=['greedy', 'deep', 'spread', 'after two']
)
@pytest.mark.parametrize('gate', [EntropyGate, MarginGate])
def test_a_recorded_search_foretells_every_gate(make, search, gate):
    inputs = images(6)
    traces = recorded(make, search, gate(0.5), inputs)
    for cost in np.linspace(traces.cost(np.inf), traces.cost(-np.inf), 4)[1:-1]:
        limit = traces.limit_for(cost)
        assert traces.cost(limit) <= cost + 1e-9
        gated = search | dict(gate=dict(type=gate.__name__, threshold=gate.threshold_at(limit)))
        with torch.no_grad(), mmdiscard.attach(make(), search=gated, **SETTINGS[make]) as ensemble:
            ensemble.predict(inputs)
            assert ensemble.last.counts.tolist() == traces.states(limit).tolist()
            assert ensemble.last.bound == pytest.approx(traces.cost(limit))


@pytest.mark.parametrize('search', [GREEDY, SPREAD], ids=['greedy', 'spread'])
def test_nothing_is_computed_for_images_that_ended(search):
    inputs, gate = images(6), EntropyGate(0.5)
    traces = recorded(segmentor, search, gate, inputs)
    middle = (traces.cost(np.inf) + traces.cost(-np.inf)) / 2
    gated = search | dict(gate=dict(type='EntropyGate', threshold=traces.limit_for(middle)))
    model, rows = segmentor(), []
    with torch.no_grad(), mmdiscard.attach(model, search=gated, **SETTINGS[segmentor]) as ensemble:
        head = ensemble.adapter.head
        ensemble.adapter.head = lambda levels, *rest: (
            rows.append(len(levels[-1])) or head(levels, *rest)
        )
        ensemble.predict(inputs)
        counts = ensemble.last.counts
    assert 1 == counts.min() < counts.max()
    assert sum(rows) == counts.sum()  # so no entropy is worked out again, either
    assert ensemble.last.cost == pytest.approx(ensemble.last.bound)


def test_average_costs_that_no_threshold_gives_are_refused():
    traces = recorded(segmentor, SPREAD, EntropyGate(0.5), images(3))
    with pytest.raises(mmdiscard.MMDiscardError, match='within the cost 99'):
        traces.limit_for(99)
    with pytest.raises(mmdiscard.MMDiscardError, match='one state .* 1.00 .* the cost 0.5'):
        traces.limit_for(0.5)
