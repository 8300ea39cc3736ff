"""Confidence and disagreement in the samples of attached models."""

import copy

import pytest
import torch
from mmpretrain.models import AverageClsScoreTTA
from mmseg.models import SegTTAModel
from small_models import (
    BINARY_HEAD,
    FCN_HEAD,
    MULTI_LABEL_HEAD,
    classifier,
    cls_samples,
    images,
    mit_segmentor,
    seg_samples,
    segmentor,
)

import mmdiscard
from mmdiscard import MMDiscardError
from mmdiscard.aggregation import Disagreement
from mmdiscard.tta import DiscardClsTTA, DiscardSegTTA

EXACT = dict(type='AverageAggregator', on='logits', align='exact')
FOUR = dict(type='SpreadStates', budget=4)
SIGMOID = FCN_HEAD | dict(loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
PAPER = dict(type='EntropyAggregator', on='features', align='bilinear')
SLIDE = dict(mode='slide', crop_size=(48, 48), stride=(32, 32))
RESIZED = dict(ori_shape=(50, 70), padding_size=[0, 4, 0, 2])


@torch.no_grad()
def predicted(model, samples, count=2, **settings):
    """Samples of an attached model, the plain ones, and the ensemble's last result."""
    batch = images(count)
    plain = model.predict(batch, samples(count))
    with mmdiscard.attach(model, **settings) as ensemble:
        without = model.predict(batch, samples(count))
    with mmdiscard.attach(model, uncertainty=True, **settings) as ensemble:
        found = model.predict(batch, samples(count))
    again = model.predict(batch, samples(count))
    assert not any('confidence' in sample or 'disagreement' in sample for sample in again)
    return found, without, plain, ensemble.last


def resized(count):
    return seg_samples(count, **RESIZED)


@pytest.mark.parametrize(
    'make',
    [segmentor, mit_segmentor, lambda: segmentor(test_cfg=SLIDE)],
    ids=['whole', 'levels', 'slide'],
)
@pytest.mark.parametrize('search', [FOUR, dict(type='GreedySearch', budget=3)], ids=['all', 'each'])
def test_maps_of_a_segmentor_are_in_the_frame_of_its_prediction(make, search):
    settings = dict(subsampling=dict(groups=[0]), search=search, aggregator=EXACT)
    found, without, _, last = predicted(make(), resized, **settings)
    for sample, other in zip(found, without, strict=True):
        assert torch.equal(sample.seg_logits.data, other.seg_logits.data)
        assert sample.confidence.shape == sample.disagreement.shape == (50, 70)
        confidence = sample.seg_logits.data.softmax(0).max(0, keepdim=True).values
        assert torch.equal(sample.confidence.data, confidence)
        assert 0 < sample.disagreement.data.max() < 2
    assert last.disagreement.shape[1:] == last.size


@torch.no_grad()
def test_disagreement_is_that_of_the_aligned_states():
    model, batch = mit_segmentor(), images(2)
    settings = dict(subsampling=dict(groups=[0]), search=FOUR, aggregator=EXACT)
    with mmdiscard.attach(model, **settings, uncertainty=True) as ensemble:
        found = model.predict(batch, seg_samples(2))
        states = ensemble.last.states[0]
        expected = Disagreement(2)
        for part in ensemble.explore(batch, states, None):
            for row, image in enumerate(part.rows.images):
                expected.add(image.view(1), part.output[row : row + 1].softmax(1))
    maps = torch.cat([sample.disagreement.data for sample in found])
    torch.testing.assert_close(maps, expected.result(), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_flipped_image_has_its_maps_flipped_back():
    model = segmentor()
    flipped = dict(flip=True, flip_direction='horizontal')
    settings = dict(subsampling=dict(groups=[0]), search=FOUR, aggregator=EXACT)
    with mmdiscard.attach(model, **settings, uncertainty=True):
        (plain,) = model.predict(images(1), seg_samples(1))
        (turned,) = model.predict(images(1), seg_samples(1, **flipped))
    assert torch.equal(plain.disagreement.data.flip(2), turned.disagreement.data)


@torch.no_grad()
def test_bare_images_of_a_segmentor():
    model = segmentor()
    settings = dict(subsampling=dict(groups=[0]), search=FOUR, aggregator=EXACT)
    with mmdiscard.attach(model, **settings, uncertainty=True) as ensemble:
        (sample,) = model.predict(images(1))
    torch.testing.assert_close(sample.disagreement.data, ensemble.last.disagreement)


@pytest.mark.parametrize('head', [BINARY_HEAD, SIGMOID], ids=['one channel', 'sigmoid'])
def test_confidence_is_the_probability_of_the_predicted_class(head):
    settings = dict(subsampling=dict(groups=[0]), search=FOUR, aggregator=EXACT)
    found, *_ = predicted(segmentor(head=head), resized, **settings)
    for sample in found:
        values, labels = sample.seg_logits.data, sample.pred_sem_seg.data.long()
        if len(values) == 1:
            expected = torch.where(labels == 1, values, 1 - values)
        else:
            expected = values.gather(0, labels).sigmoid()
        torch.testing.assert_close(sample.confidence.data, expected)
        assert 0 < sample.disagreement.data.max() < 1


@pytest.mark.parametrize('aggregator', [PAPER, dict(type='AverageAggregator', on='logits')])
@pytest.mark.parametrize('search', [FOUR, dict(type='GreedySearch', budget=3)], ids=['all', 'each'])
def test_scores_of_a_classifier(aggregator, search):
    settings = dict(subsampling=dict(groups='inner'), search=search, aggregator=aggregator)
    found, without, _, last = predicted(classifier(), cls_samples, **settings)
    for index, (sample, other) in enumerate(zip(found, without, strict=True)):
        assert torch.equal(sample.pred_score, other.pred_score)
        assert torch.equal(sample.confidence, sample.pred_score[sample.pred_label])
        assert sample.disagreement == last.disagreement[index] > 0


def test_scores_of_a_multi_label_classifier():
    settings = dict(search=FOUR, aggregator=dict(type='AverageAggregator', on='logits'))
    found, *_ = predicted(classifier(head=MULTI_LABEL_HEAD), cls_samples, **settings)
    for sample in found:
        score = sample.pred_score
        torch.testing.assert_close(sample.confidence, torch.maximum(score, 1 - score).mean()[None])
        assert 0 < sample.disagreement < 1


@pytest.mark.parametrize('make, samples', [(segmentor, resized), (classifier, cls_samples)])
def test_one_state_agrees_with_itself(make, samples):
    found, _, plain, last = predicted(make(), samples, search=dict(type='SpreadStates', budget=1))
    assert last.disagreement is None
    for sample, other in zip(found, plain, strict=True):
        if samples is cls_samples:
            assert torch.equal(sample.confidence, other.pred_score.max()[None])
            assert sample.disagreement == 0
        else:
            expected = other.seg_logits.data.softmax(0).max(0, keepdim=True).values
            assert torch.equal(sample.confidence.data, expected)
            assert not sample.disagreement.data.any()


def test_a_copy_of_an_attached_model_is_plain():
    model = classifier()
    with mmdiscard.attach(model, search=FOUR, uncertainty=True):
        (sample,) = copy.deepcopy(model).predict(images(1))
    assert 'confidence' not in sample


@pytest.mark.parametrize('make, wrap', [(classifier, AverageClsScoreTTA), (segmentor, SegTTAModel)])
def test_mms_own_tta_models_are_refused(make, wrap):
    model = make()
    with pytest.raises(MMDiscardError, match=f'{wrap.__name__} would keep that of one view'):
        mmdiscard.attach(wrap(module=model), search=FOUR, uncertainty=True)
    wrap = DiscardClsTTA if make is classifier else DiscardSegTTA
    mmdiscard.attach(wrap(module=model), search=FOUR, uncertainty=True).detach()
