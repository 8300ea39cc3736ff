"""The TTA models against MM's own, and with an ensemble inside."""

import pytest
import torch
from mmpretrain.models import AverageClsScoreTTA
from mmseg.models import SegTTAModel
from small_models import (
    FCN_HEAD,
    classifier,
    cls_samples,
    images,
    mit_segmentor,
    seg_samples,
    segmentor,
)

import mmdiscard
from mmdiscard import MMDiscardError
from mmdiscard.models import DiscardClsTTA, DiscardSegTTA

BINARY = FCN_HEAD | dict(num_classes=2, out_channels=1, threshold=0.3)
MERGERS = ['MeanMerger', 'EntropyMerger']


def pixels(views):
    """Raw images ``(V, N, 3, H, W)`` as a pipeline packs them, with their mirror images."""
    batch = (images(views) * 60 + 127).clamp(0, 255).byte()
    return [[image, image.flip(0)] for image in batch]


def cls_views():
    return dict(inputs=pixels(3), data_samples=[cls_samples(2) for _ in range(3)])


def seg_views():
    turned = dict(flip=True, flip_direction='horizontal')
    samples = [seg_samples(2), seg_samples(2, **turned), seg_samples(2)]
    return dict(inputs=pixels(3), data_samples=samples)


@torch.no_grad()
def cls_result(tta):
    return torch.stack([sample.pred_score for sample in tta.test_step(cls_views())])


@torch.no_grad()
def seg_result(tta):
    return torch.stack([sample.pred_sem_seg.data for sample in tta.test_step(seg_views())])


# ---------------------------------------------------------------------------------- default merger
@torch.no_grad()
def test_classifier_merges_as_mmpretrain_does():
    model = classifier()
    theirs = AverageClsScoreTTA(module=model).test_step(cls_views())
    ours = DiscardClsTTA(module=model).test_step(cls_views())
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.pred_score, b.pred_score)
        assert torch.equal(a.pred_label, b.pred_label)
        assert torch.equal(a.gt_label, b.gt_label)


@torch.no_grad()
@pytest.mark.parametrize('make', [segmentor, mit_segmentor])
def test_segmentor_merges_as_mmseg_does(make):
    model = make()
    theirs = SegTTAModel(module=model).test_step(seg_views())
    ours = DiscardSegTTA(module=model).test_step(seg_views())
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data)
        assert torch.equal(a.gt_sem_seg.data, b.gt_sem_seg.data)
        assert a.img_path == b.img_path


@torch.no_grad()
@pytest.mark.parametrize('merger', MERGERS)
def test_segmentor_keeps_probabilities_that_sum_to_one(merger):
    for sample in DiscardSegTTA(segmentor(), merger=dict(type=merger)).test_step(seg_views()):
        total = sample.seg_logits.data.sum(0)
        torch.testing.assert_close(total, torch.ones_like(total))
        assert torch.equal(sample.pred_sem_seg.data[0], sample.seg_logits.data.argmax(0))


@torch.no_grad()
def test_binary_probabilities_are_merged_as_they_are():
    model = segmentor(head=BINARY)
    tta = DiscardSegTTA(model)
    views = [
        model.test_step(dict(inputs=inputs, data_samples=samples))
        for inputs, samples in zip(*seg_views().values(), strict=True)
    ]
    for image, sample in enumerate(tta.test_step(seg_views())):
        mean = torch.stack([view[image].seg_logits.data for view in views]).mean(0)
        torch.testing.assert_close(sample.seg_logits.data, mean)
        assert torch.equal(sample.pred_sem_seg.data, (sample.seg_logits.data > 0.3).long())


def test_mergers_give_different_results():
    model = classifier()
    results = [cls_result(DiscardClsTTA(model, merger=dict(type=merger))) for merger in MERGERS]
    assert not torch.allclose(*results, rtol=1e-3)


def test_unknown_mergers_are_refused():
    with pytest.raises(MMDiscardError, match="unknown merger 'Vote'; .* EntropyMerger, .* MeanMerger"):
        DiscardClsTTA(classifier(), merger=dict(type='Vote'))


# ------------------------------------------------------------------------------- with states inside
TTA_MODELS = {
    'AverageClsScoreTTA': (AverageClsScoreTTA, classifier, cls_result),
    'DiscardClsTTA': (DiscardClsTTA, classifier, cls_result),
    'SegTTAModel': (SegTTAModel, segmentor, seg_result),
    'DiscardSegTTA': (DiscardSegTTA, segmentor, seg_result),
}


@pytest.mark.parametrize('kind, make, result', TTA_MODELS.values(), ids=TTA_MODELS)
def test_states_inside_views(kind, make, result):
    tta, heard = kind(module=make()), []
    plain = result(tta)
    keys = list(tta.state_dict())
    with mmdiscard.attach(tta, dict(groups='all'), dict(type='GreedySearch', budget=1)):
        assert torch.equal(result(tta), plain)
        assert list(tta.state_dict()) == keys
    with mmdiscard.attach(tta, dict(groups='all'), dict(type='GreedySearch', budget=3)) as ensemble:
        ensemble.listeners.append(heard.append)
        assert not torch.equal(result(tta), plain)
    assert len(heard) == 3  # views
    assert torch.equal(result(tta), plain)
