"""Methods that merge the same states do what ensembles of their own do."""

import pytest
import torch
from small_models import assert_near, classifier, cls_samples, images, mit_segmentor, seg_samples

from benchmarks.learned.compare import Method, MethodComparison
from mmdiscard import attach

SPREAD = dict(type='SpreadStates', budget=6)
GREEDY = dict(type='GreedySearch', budget=6)


def on(kind, where, align):
    return dict(type=kind, on=where, align=align)


@pytest.mark.parametrize(
    ('make', 'where', 'align', 'search'),
    [
        (classifier, 'features', 'bilinear', GREEDY),
        (mit_segmentor, 'logits', 'exact', SPREAD),
    ],
)
def test_smaller_budgets_are_the_first_states_of_the_largest(make, where, align, search):
    model, x = make(), images(3)
    kinds = ('AverageAggregator', 'EntropyAggregator')
    methods = [Method(kind, on(kind, where, align)) for kind in kinds]
    with MethodComparison(model, methods, dict(groups='inner'), search) as comparison:
        parts = comparison.compute(x)
        found = {budget: comparison.logits(parts, budget) for budget in (4, 6)}
        states = [outputs.rows.states[0].tolist() for outputs in parts]
        cost = comparison.cost(methods[1], states)
    for budget, by_method in found.items():
        for method in methods:
            settings = search | dict(budget=budget)
            with torch.no_grad(), attach(model, None, settings, method.aggregator) as ensemble:
                assert_near(by_method[method.name], ensemble.predict(x), 1e-4)
    with attach(model, None, search, methods[1].aggregator) as ensemble:
        assert cost == pytest.approx(ensemble.prices.of(states))


def test_learning_lowers_the_loss_and_a_control_learns_without_states():
    model, x, lines = mit_segmentor(), images(4), []
    methods = [
        Method('plain', on('AverageAggregator', 'logits', 'exact'), one_state=True),
        Method('control', on('ClassCorrection', 'logits', 'exact'), 0.1, 4, one_state=True),
        Method('phase', dict(type='PhaseAggregator'), 0.1, 4),
    ]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with MethodComparison(model, methods, dict(groups=[0]), SPREAD) as comparison:
        parts = comparison.compute(x)
        untrained = comparison.logits(parts, 6)
        seconds = comparison.train(lambda epoch: [(x, seg_samples(4))], (6,), lines.append)
        trained = comparison.logits(parts, 6)
    losses = [
        {part.rpartition(' ')[0]: float(part.rpartition(' ')[2]) for part in line.split(', ')}
        for line in (text.partition(': ')[2] for text in lines)
    ]
    assert len(lines) == 4 and seconds.keys() == {'control', 'phase'}
    for name in ('control', 'phase'):
        assert losses[-1][name] < losses[0][name]
        assert not torch.equal(untrained[name], trained[name])
    assert torch.equal(untrained['plain'], trained['plain'])
    difference = trained['control'] - untrained['plain']
    assert (difference - difference[:1, :, :1, :1]).abs().max() < 1e-5  # a number for each class
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_classifier_is_corrected_too():
    methods = [Method('control', on('ClassCorrection', 'logits', 'none'), 0.1, 2, one_state=True)]
    lines = []
    with MethodComparison(classifier(), methods, dict(groups='inner'), GREEDY) as comparison:
        comparison.train(lambda epoch: [(images(4), cls_samples(4))], (6,), lines.append)
    assert len(lines) == 2
