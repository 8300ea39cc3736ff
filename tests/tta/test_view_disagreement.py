"""How much views and states of an image disagree, in the samples of the TTA models."""

import pytest
import torch
from small_models import (
    BINARY_HEAD,
    classifier,
    cls_samples,
    images,
    seg_samples,
    segmentor,
)

import mmdiscard
from mmdiscard.aggregation import Disagreement
from mmdiscard.models.uncertainty import fields_of
from mmdiscard.models.views import split_views
from mmdiscard.tta import DiscardClsTTA, DiscardSegTTA

KINDS = {
    'classifier': (classifier, DiscardClsTTA),
    'segmentor': (segmentor, DiscardSegTTA),
    'binary segmentor': (lambda: segmentor(head=BINARY_HEAD), DiscardSegTTA),
}
GREEDY = dict(type='GreedySearch', budget=3)
AVERAGE = dict(type='AverageAggregator', on='logits')
ENTROPY = dict(type='EntropyAggregator', on='logits')


def batch(kind):
    turned = dict(flip=True, flip_direction='horizontal')
    views = (images(6) * 60 + 127).clamp(0, 255).byte().split(2)
    samples = [
        cls_samples(2) if kind == 'classifier' else seg_samples(2, **turned if view == 1 else {})
        for view in range(3)
    ]
    return dict(inputs=[list(view) for view in views], data_samples=samples)


def predicted_by(sample):
    """Probabilities ``(K, ...)`` of one sample, before it is merged with others."""
    if 'pred_score' in sample:
        return sample.pred_score
    data = sample.seg_logits.data
    return data.softmax(0) if len(data) > 1 else data


@torch.no_grad()
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('budget', [1, 3])
def test_views_disagree_beyond_their_states(kind, budget):
    make, wrap = KINDS[kind]
    model = make()
    settings = dict(search=dict(type='GreedySearch', budget=budget), aggregator=AVERAGE)
    merger = dict(type='EntropyMerger')
    with mmdiscard.attach(model, dict(groups=[-2, -1]), **settings):
        plain = wrap(model, merger=merger).test_step(batch(kind))
    with mmdiscard.attach(model, dict(groups=[-2, -1]), **settings, uncertainty=True):
        found = wrap(model, merger=merger).test_step(batch(kind))
        views = [model.test_step(view) for view in split_views(batch(kind))]
    for image, (sample, other) in enumerate(zip(found, plain, strict=True)):
        between, within = Disagreement(1), []
        for view in views:
            between.add(torch.tensor([0]), predicted_by(view[image])[None])
            within.append(fields_of(view[image])[1])
        within = torch.stack(within).mean(0)
        assert bool(within.any()) == (budget > 1)
        confidence, disagreement = fields_of(sample)
        torch.testing.assert_close(disagreement, between.result()[0] + within)
        assert (disagreement > within).any()
        if kind == 'classifier':
            assert torch.equal(sample.pred_score, other.pred_score)
            assert torch.equal(confidence, sample.pred_score.max())
            continue
        merged = sample.seg_logits.data
        assert torch.equal(merged, other.seg_logits.data)
        binary = torch.where(sample.pred_sem_seg.data == 1, merged, 1 - merged)[0]
        assert torch.equal(confidence, binary if len(merged) == 1 else merged.max(0).values)


@torch.no_grad()
@pytest.mark.parametrize('kind', KINDS)
def test_weighted_views_and_states_leave_predictions_as_they_are(kind):
    make, wrap = KINDS[kind]
    model = make()
    tta = wrap(model, merger=dict(type='EntropyMerger', on='logits'))
    with mmdiscard.attach(model, dict(groups=[-2, -1]), GREEDY, ENTROPY):
        plain = tta.test_step(batch(kind))
    with mmdiscard.attach(model, dict(groups=[-2, -1]), GREEDY, ENTROPY, uncertainty=True):
        found = tta.test_step(batch(kind))
    for sample, other in zip(found, plain, strict=True):
        for key, value in other.items():
            assert torch.equal(*(getattr(v, 'data', v) for v in (value, sample.get(key))))
        assert (fields_of(sample)[1] > 0).any()


@torch.no_grad()
@pytest.mark.parametrize('kind', ['classifier', 'segmentor'])
def test_views_that_an_image_did_not_take_do_not_count(kind):
    make, wrap = KINDS[kind]
    model = make()
    with mmdiscard.attach(model, dict(groups=[-2, -1]), GREEDY, AVERAGE, uncertainty=True):
        one = wrap(model, joint=dict(cost=1.0)).test_step(batch(kind))
        all_views = wrap(model, joint=dict(cost=1000.0)).test_step(batch(kind))
    for alone, together in zip(one, all_views, strict=True):
        torch.testing.assert_close(
            fields_of(alone)[1], torch.zeros_like(fields_of(alone)[1]), atol=1e-6, rtol=0
        )
        assert (fields_of(together)[1] > 1e-4).any()
