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
from mmdiscard.tta import DiscardClsTTA, DiscardSegTTA
from mmdiscard.tta.mergers.fitted import MergerFile
from mmdiscard.tta.view_output import split_views

BINARY = FCN_HEAD | dict(num_classes=2, out_channels=1, threshold=0.3)
MERGERS = ['MeanMerger', 'EntropyMerger']
SLIDE = dict(mode='slide', crop_size=(48, 48), stride=(32, 32))


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
@pytest.mark.parametrize(
    'make',
    [segmentor, mit_segmentor, lambda: segmentor(test_cfg=SLIDE)],
    ids=['whole', 'levels', 'slide'],
)
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
    with pytest.raises(MMDiscardError, match="unknown merger 'Vote'; .* MeanMerger"):
        DiscardClsTTA(classifier(), merger=dict(type='Vote'))


@torch.no_grad()
def test_models_that_cannot_be_attached_to_can_be_augmented():
    class Unknown(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = classifier()

        def test_step(self, data):
            return self.inner.test_step(data)

    torch.manual_seed(0)
    expected = cls_result(DiscardClsTTA(classifier(), merger=fitted('AugTTAMerger')))
    found = cls_result(DiscardClsTTA(Unknown(), merger=fitted('AugTTAMerger')))
    torch.testing.assert_close(found, expected)  # logarithms in the place of logits


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


# ------------------------------------------------------------------------------------- which views
FILES = dict(
    GPSMerger=dict(indices=[2]),
    AugTTAMerger=dict(coefficients=[0.0, 1.0, 3.0]),
    ClassTTAMerger=dict(coefficients=torch.rand(3, 7).tolist()),
)
CLS_VIEWS = ('view 0', 'view 1', 'view 2')
SEG_VIEWS = ('view 0', 'view 1 horizontal flip', 'view 2')


def fitted(name, views=CLS_VIEWS):
    return dict(type=name, file=MergerFile(name, views, FILES[name]))


@torch.no_grad()
@pytest.mark.parametrize('name', FILES)
def test_fitted_mergers_merge_the_logits_of_the_head(name):
    model = classifier()
    tta = DiscardClsTTA(model, merger=fitted(name))
    logits = [
        model(model.data_preprocessor(view)['inputs'], mode='tensor')
        for view in split_views(cls_views())
    ]
    expected = tta.merger.merge(torch.stack(logits).transpose(1, 2)).softmax(0).T
    torch.testing.assert_close(cls_result(tta), expected)


@torch.no_grad()
def test_views_without_weight_are_not_computed():
    model, heard = classifier(), []
    model.backbone.register_forward_hook(lambda *_: heard.append(1))
    cls_result(DiscardClsTTA(model, merger=fitted('GPSMerger')))
    assert len(heard) == 1
    cls_result(DiscardClsTTA(model, merger=fitted('AugTTAMerger')))
    assert len(heard) == 3


@torch.no_grad()
def test_mergers_fitted_to_other_views_are_refused():
    with pytest.raises(MMDiscardError, match='knows nothing of view 1 horizontal flip; it misses'):
        DiscardSegTTA(segmentor(), merger=fitted('GPSMerger')).test_step(seg_views())
    tta = DiscardSegTTA(segmentor(), merger=fitted('GPSMerger', SEG_VIEWS))
    assert len(tta.test_step(seg_views())) == 2


@torch.no_grad()
@pytest.mark.parametrize('merger', MERGERS + ['MaxMerger'])
@pytest.mark.parametrize('kind', ['classifier', 'segmentor'])
def test_order_of_views_changes_nothing(kind, merger):
    make, tta, views, field = {
        'classifier': (classifier, DiscardClsTTA, cls_views(), lambda s: s.pred_score),
        'segmentor': (segmentor, DiscardSegTTA, seg_views(), lambda s: s.seg_logits.data),
    }[kind]
    tta = tta(make(), merger=dict(type=merger))
    turned = {key: values[::-1] for key, values in views.items()}
    for a, b in zip(tta.test_step(views), tta.test_step(turned), strict=True):
        torch.testing.assert_close(field(a), field(b))


def test_views_that_the_model_cannot_predict_are_named():
    views = seg_views()
    views['data_samples'][1][0].set_metainfo(dict(flip_direction='diagonal'))
    message = "cannot predict the view 'view 1 diagonal flip' of 0.png .size .64, 64.*out of tta_"
    with pytest.raises(MMDiscardError, match=message):
        DiscardSegTTA(segmentor()).test_step(views)


# ---------------------------------------------------------------------- views and states as one set
ENTROPY = dict(type='EntropyAggregator', on='logits')
FIXED = dict(type='FixedStates', states=[[0, 0], [1, 0], [0, 3], [2, 1]])


def pairs(model, view):
    """Logits of every state of a view, with entropy weights: brute force."""
    data = model.data_preprocessor(view)
    with mmdiscard.attach(model, dict(groups=[-2, -1]), FIXED, ENTROPY) as ensemble:
        logits = ensemble.evaluate(data['inputs'], torch.tensor(FIXED['states'])).logits.double()
    p = logits.softmax(2)
    entropy = torch.special.entr(p).sum(2) / torch.tensor(float(p.shape[2])).log()
    return logits, (1 - entropy).unsqueeze(2)


@torch.no_grad()
def test_entropy_weighs_all_pairs_of_views_and_states_at_once():
    model = classifier()
    model.head.fc.weight.data *= 0.05  # so that none is certain
    logits, weights = zip(*(pairs(model, view) for view in split_views(cls_views())), strict=True)
    logits, weights = torch.cat(logits, 1), torch.cat(weights, 1)
    expected = ((weights * logits).sum(1) / weights.sum(1)).softmax(1)
    tta = DiscardClsTTA(model, merger=dict(type='EntropyMerger', on='logits'))
    with mmdiscard.attach(model, dict(groups=[-2, -1]), FIXED, ENTROPY):
        found = cls_result(tta)
        apart = dict(type='EntropyMerger', on='logits', joint=False)
        other = cls_result(DiscardClsTTA(model, merger=apart))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(other.double(), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_weights_of_pixels_go_the_way_of_their_logits():
    model = segmentor()
    views = seg_views()
    logits, weights = zip(*(pairs(model, view) for view in split_views(views)), strict=True)
    turn = [lambda maps: maps, lambda maps: maps.flip(-1), lambda maps: maps]
    logits = torch.cat([back(maps) for back, maps in zip(turn, logits, strict=True)], 1)
    weights = torch.cat([back(maps) for back, maps in zip(turn, weights, strict=True)], 1)
    expected = ((weights * logits).sum(1) / weights.sum(1)).softmax(1)
    tta = DiscardSegTTA(model, merger=dict(type='EntropyMerger', on='logits'))
    with mmdiscard.attach(model, dict(groups=[-2, -1]), FIXED, ENTROPY):
        samples = tta.test_step(views)
    found = torch.stack([sample.seg_logits.data for sample in samples])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    assert model.out_channels == 5
    assert 'encode_decode' not in vars(model)


@torch.no_grad()
def test_weights_of_pixels_are_put_together_from_windows():
    tta = DiscardSegTTA(segmentor(test_cfg=SLIDE), merger=dict(type='EntropyMerger'))
    with mmdiscard.attach(tta, dict(groups=[-2, -1]), FIXED, ENTROPY):
        for sample in tta.test_step(seg_views()):
            total = sample.seg_logits.data.sum(0)
            torch.testing.assert_close(total, torch.ones_like(total))
            assert sample.pred_sem_seg.data.max() < 5


@torch.no_grad()
def test_one_state_alone_leaves_views_to_their_own_weights():
    tta = DiscardClsTTA(classifier(), merger=dict(type='EntropyMerger'))
    plain = cls_result(tta)
    one = dict(type='GreedySearch', budget=1)
    with mmdiscard.attach(tta, dict(groups='all'), one, ENTROPY):
        assert torch.equal(cls_result(tta), plain)
