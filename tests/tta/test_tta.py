"""The TTA models against MM's own, and with an ensemble inside."""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from mmpretrain.models import AverageClsScoreTTA
from mmpretrain.structures import MultiTaskDataSample
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
from torch.nn import functional as F

import mmdiscard
from mmdiscard import MMDiscardError
from mmdiscard.models.views import split_views
from mmdiscard.tta import DiscardClsTTA, DiscardSegTTA
from mmdiscard.tta.fitted_mergers import MergerFile
from mmdiscard.tta.labelled_views import row_reader
from mmdiscard.tta.view_output import read_segmentor

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
    model = segmentor(head=BINARY_HEAD)
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


@torch.no_grad()
def test_logits_of_models_that_change_their_predictions_are_those_of_their_scores():
    prior = torch.arange(1.0, 8.0)

    def predict(inputs, data_samples=None, **kwargs):
        samples = own(inputs, data_samples, **kwargs)
        for sample in samples:
            sample.set_pred_score(sample.pred_score * prior / (sample.pred_score * prior).sum())
        return samples

    model = classifier()
    model.head.fc.weight.data *= 0.05  # so that none is certain
    views = split_views(cls_views())
    inputs = [model.data_preprocessor(view, False)['inputs'] for view in views]
    logits = torch.stack([model(images, mode='tensor') for images in inputs]).mean(0)
    expected = (logits.exp() * prior) / (logits.exp() * prior).sum(1, keepdim=True)
    own, model.predict = model.predict, predict
    tta = DiscardClsTTA(model, merger=dict(type='MeanMerger', on='logits'))
    torch.testing.assert_close(cls_result(tta), expected)


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
    return pairs_of(model, model.data_preprocessor(view)['inputs'])


def pairs_of(model, inputs):
    with mmdiscard.attach(model, dict(groups=[-2, -1]), FIXED, ENTROPY) as ensemble:
        logits = ensemble.evaluate(inputs, torch.tensor(FIXED['states'])).logits.double()
    two = torch.cat([logits, torch.zeros_like(logits)], 2)  # a single channel is a binary decision
    p = (logits if logits.shape[2] > 1 else two).softmax(2)
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
def test_every_view_has_unsure_windows_of_its_own():
    model = segmentor()
    settings = dict(groups=[-1], input_size=(64, 64)), dict(type='SpreadStates', budget=2)

    def predicted(where):
        with mmdiscard.attach(model, *settings, where=where) as ensemble:
            results = []
            ensemble.listeners.append(results.append)
            samples = DiscardSegTTA(model).test_step(seg_views())
        return torch.stack([sample.seg_logits.data for sample in samples]), results

    everywhere, _ = predicted(None)
    found, results = predicted(dict(size=64, halo=0, share=1.0))
    torch.testing.assert_close(found, everywhere, rtol=1e-3, atol=1e-5)
    assert [result.cost for result in results] == [2.0] * 3
    _, results = predicted(dict(size=32, halo=0, share=0.25))
    assert results[0].windows != results[2].windows


@torch.no_grad()
@pytest.mark.parametrize('head', [FCN_HEAD, BINARY_HEAD], ids=['classes', 'binary'])
@pytest.mark.parametrize('windows', [None, (0, 16)], ids=['whole', 'slide'])
def test_weights_of_pixels_are_post_processed_as_logits_are(windows, head):
    model = segmentor(head=head, test_cfg=SLIDE if windows else dict(mode='whole'))
    model.decode_head.conv_seg.weight.data *= 0.05  # so that no pixel is certain
    turned = dict(flip=True, flip_direction='horizontal')
    samples = seg_samples(2, ori_shape=(40, 90), padding_size=[0, 4, 0, 8], **turned)
    view = dict(inputs=pixels(1)[0], data_samples=samples)
    inputs = model.data_preprocessor(view)['inputs']
    total, count = torch.zeros(2, 1, 64, 64, dtype=torch.double), torch.zeros(64, 64)
    for top, left in product(windows or [0], repeat=2):
        size = 48 if windows else 64
        window = (..., slice(top, top + size), slice(left, left + size))
        total[window] += pairs_of(model, inputs[window])[1].sum(1)
        count[window] += 1
    maps = (total / count)[:, :, :-8, :-4].flip(-1)
    expected = F.interpolate(maps, (40, 90), mode='bilinear')[:, 0]
    assert expected.std() > 0.01
    with mmdiscard.attach(model, dict(groups=[-2, -1]), FIXED, ENTROPY):
        outputs = read_segmentor(model, view, weighted=True)
        plain = model.test_step(view)
    found = torch.stack([output.weight for output in outputs])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    for output, sample in zip(outputs, plain, strict=True):
        assert torch.equal(output.sample.pred_sem_seg.data, sample.pred_sem_seg.data)
        probabilities = sample.seg_logits.data
        probabilities = probabilities.softmax(0) if len(probabilities) > 1 else probabilities
        assert torch.equal(output.probabilities(), probabilities)


@torch.no_grad()
def test_one_state_alone_leaves_views_to_their_own_weights():
    tta = DiscardClsTTA(classifier(), merger=dict(type='EntropyMerger'))
    plain = cls_result(tta)
    one = dict(type='GreedySearch', budget=1)
    with mmdiscard.attach(tta, dict(groups='all'), one, ENTROPY):
        assert torch.equal(cls_result(tta), plain)


# ------------------------------------------------------------------------------ multi-label heads
def multi_label(**head):
    model = classifier(head=MULTI_LABEL_HEAD | head)
    model.head.fc.weight.data *= 0.05  # so that no class is certain
    return model


def scores_of(model):
    """Logits ``(V, N, K)`` of a plain model."""
    views = split_views(cls_views())
    inputs = [model.data_preprocessor(view, False)['inputs'] for view in views]
    return torch.stack([model(images, mode='tensor') for images in inputs])


def binary_entropy(p):
    """Mean over classes, 1 at most."""
    entropy = torch.special.entr(p) + torch.special.entr(1 - p)
    return entropy.mean(2, keepdim=True) / math.log(2)


@torch.no_grad()
@pytest.mark.parametrize('attached', [False, True], ids=['plain', 'one state'])
@pytest.mark.parametrize('head', [dict(thr=0.45), dict(topk=2)], ids=['threshold', 'top k'])
def test_multi_label_probabilities_are_averaged(head, attached):
    model = multi_label(**head)
    expected = scores_of(model).sigmoid().mean(0)
    tta = DiscardClsTTA(model)
    one = dict(type='GreedySearch', budget=1)
    with mmdiscard.attach(tta, dict(groups='all'), one) if attached else nullcontext():
        samples = tta.test_step(cls_views())
    for sample, scores in zip(samples, expected, strict=True):
        torch.testing.assert_close(sample.pred_score, scores)
        found = sorted(sample.pred_label.tolist())
        if 'thr' in head:
            assert found == (scores >= 0.45).nonzero().flatten().tolist()
        else:
            assert found == sorted(scores.topk(2).indices.tolist())


@torch.no_grad()
@pytest.mark.parametrize('on', ['probabilities', 'logits'])
def test_multi_label_views_are_weighted_by_binary_entropies(on):
    model = multi_label()
    logits = scores_of(model).double()
    p = logits.sigmoid()
    entropy = (torch.special.entr(p) + torch.special.entr(1 - p)).mean(2, keepdim=True) / math.log(
        2
    )
    values = p if on == 'probabilities' else logits
    merged = ((1 - entropy) * values).sum(0) / (1 - entropy).sum(0)
    expected = merged if on == 'probabilities' else merged.sigmoid()
    found = cls_result(DiscardClsTTA(model, merger=dict(type='EntropyMerger', on=on)))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_multi_label_states_and_views_are_one_average():
    model = multi_label()
    logits, weights = [], []
    for view in split_views(cls_views()):
        inputs = model.data_preprocessor(view)['inputs']
        with mmdiscard.attach(model, dict(groups=[-2, -1]), FIXED, ENTROPY) as ensemble:
            states = torch.tensor(FIXED['states'])
            logits.append(ensemble.evaluate(inputs, states).logits.double())
        weights.append(1 - binary_entropy(logits[-1].sigmoid()))
    logits, weights = torch.cat(logits, 1), torch.cat(weights, 1)
    expected = ((weights * logits).sum(1) / weights.sum(1)).sigmoid()
    tta = DiscardClsTTA(model, merger=dict(type='EntropyMerger', on='logits'))
    with mmdiscard.attach(model, dict(groups=[-2, -1]), FIXED, ENTROPY):
        found = cls_result(tta)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize('merger', ['MaxMerger', *FILES])
def test_mergers_of_exclusive_classes_refuse_multi_label_models(merger):
    config = fitted(merger) if merger in FILES else dict(type=merger)
    message = f'{merger} .* decides every class on its own .multi-label.; use MeanMerger or'
    with pytest.raises(MMDiscardError, match=message):
        DiscardClsTTA(multi_label(), merger=config).test_step(cls_views())
    with pytest.raises(MMDiscardError, match='mergers are fitted to exclusive classes'):
        row_reader(multi_label(), pixels=1)


@torch.no_grad()
def test_models_without_one_score_per_class_are_refused():
    heads = {name: dict(type='LinearClsHead', num_classes=3) for name in ('shape', 'colour')}
    model = classifier(head=dict(type='MultiTaskHead', task_heads=heads, in_channels=32))
    data = dict(inputs=pixels(1), data_samples=[[MultiTaskDataSample() for _ in range(2)]])
    with pytest.raises(MMDiscardError, match='does not give one score per class'):
        DiscardClsTTA(model).test_step(data)


# ----------------------------------------------------------------------------------------- threads
@torch.no_grad()
@pytest.mark.parametrize('kind', ['classifier', 'segmentor'])
def test_threads_do_not_disturb_each_other(kind):
    make, tta, views, field = {
        'classifier': (classifier, DiscardClsTTA, cls_views, lambda s: s.pred_score),
        'segmentor': (segmentor, DiscardSegTTA, seg_views, lambda s: s.seg_logits.data),
    }[kind]
    tta = tta(make(), merger=dict(type='EntropyMerger', on='logits'))

    @torch.no_grad()
    def result(images):
        data = views()
        data['inputs'] = [view[:images] for view in data['inputs']]
        data['data_samples'] = [view[:images] for view in data['data_samples']]
        return torch.stack([field(sample) for sample in tta.test_step(data)])

    counts = [1, 2, 2, 1, 1, 2, 1, 2]
    with mmdiscard.attach(tta, dict(groups=[-2, -1]), FIXED, ENTROPY):
        expected = [result(count) for count in counts]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(result, counts))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
