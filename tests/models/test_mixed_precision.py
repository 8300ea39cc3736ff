"""Models in mixed precision, and compiled ones: their states are those of the plain loop."""

import pytest
import torch
from mmengine.runner.amp import autocast
from small_models import (
    assert_near,
    classifier,
    count_layer_rows,
    images,
    mit_segmentor,
    segmentor,
)

import mmdiscard

PAPER = dict(type='EntropyAggregator', on='features', align='bilinear')
MEAN = dict(type='AverageAggregator', on='logits', align='none')
BF16 = 3e-2  # of the largest logit: eight bits of mantissa, over some ten layers


@torch.no_grad()
@pytest.mark.parametrize('build', [classifier, segmentor, mit_segmentor])
@pytest.mark.parametrize('search', [dict(type='GreedySearch', budget=4), None])
def test_mixed_precision_merges_what_the_plain_loop_does(build, search):
    inputs = images(2)
    search = search or dict(type='SpreadStates', budget=4)
    with mmdiscard.attach(build(), dict(groups=[-2, -1], input_size=64), search, MEAN) as ensemble:
        exact = ensemble.predict(inputs)
        with autocast(enabled=True):  # of MMEngine's test loop, which on a CPU is bfloat16
            found = ensemble.predict(inputs)
            states = ensemble.last.states
            loop = torch.stack(
                [ensemble.evaluate(inputs[i : i + 1], states[i]).logits[0] for i in range(2)]
            ).mean(1)
        assert not torch.equal(found.float(), exact)
    assert_near(found.float(), loop.float(), BF16)


# -------------------------------------------------------------------------------------- compiled
class CountedBackend:
    """A backend of torch.compile that counts what it compiles."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, example):
        self.graphs += 1
        return graph.forward


def compiled_by_module(model, backend):
    model.backbone = torch.compile(model.backbone, backend=backend)


def compiled_in_place(model, backend):
    model.backbone.compile(backend=backend)


def compiled_methods(model, backend):
    model.predict = torch.compile(model.predict, backend=backend)  # as `compile=` of MMEngine


@torch.no_grad()
@pytest.mark.parametrize('how', [compiled_by_module, compiled_in_place, compiled_methods])
def test_states_of_a_compiled_model_run_eagerly_and_one_line_says_so(how, monkeypatch):
    if how is compiled_in_place and not hasattr(torch.nn.Module, 'compile'):
        pytest.skip('this PyTorch cannot compile in place')
    said = []
    monkeypatch.setattr(
        'mmdiscard.models.wrappers.print_log', lambda text, *args, **kwargs: said.append(text)
    )
    settings = dict(groups=[-2, -1], input_size=64), dict(type='SpreadStates', budget=4), PAPER
    with mmdiscard.attach(classifier(), *settings) as ensemble:
        model = ensemble.adapter.model
        eager = count_layer_rows(model)
        expected = model.predict(images(2))
    assert not said
    model, backend = classifier(), CountedBackend()
    compiled = count_layer_rows(model)
    how(model, backend)
    with mmdiscard.attach(model, *settings):
        for rows in compiled.values():  # of attaching
            rows.clear()
        found = model.predict(images(2))
    # Nothing is compiled for states: they cost what those of an eager model do.
    assert backend.graphs == 0
    assert compiled == eager
    # Four states of the last two groups: one computation in front of both, four behind them.
    assert sum(eager['backbone.conv1']) == 2 and sum(eager['backbone.layer4.1.conv2']) == 8
    assert len(said) == 1 and 'run eagerly' in said[0]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.pred_score, other.pred_score)
    model.predict(images(2))
    assert backend.graphs > 0
