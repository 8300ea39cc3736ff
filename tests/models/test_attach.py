"""Attaching and detaching: what changes, what does not, and what is refused."""

import copy

import pytest
import torch
from small_models import (
    FCN_HEAD,
    OCR_HEAD,
    SMALL_RESNET_4_LEVELS,
    UNET,
    classifier,
    cls_samples,
    images,
    mit_segmentor,
    seg_samples,
    segmentor,
)
from torch import nn

import mmdiscard
from mmdiscard import MMDiscardError
from mmdiscard.models import unwrap
from mmdiscard.registry import MODELS

GREEDY = dict(type='GreedySearch', budget=3)
MAKERS = {
    'classifier': classifier,
    'stride 8': segmentor,
    'MiT': mit_segmentor,
    'neck': lambda: segmentor(
        backbone=SMALL_RESNET_4_LEVELS,
        neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=32, num_outs=4),
    ),
    'cascade': lambda: segmentor(
        type='mmseg.CascadeEncoderDecoder', num_stages=2, head=[FCN_HEAD, OCR_HEAD]
    ),
}


def snapshot(model: nn.Module) -> dict:
    """Everything of a model that attaching could leave a trace in."""
    return {
        name: (
            sorted(vars(module)),
            module.training,
            type(module),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
        )
        for name, module in model.named_modules()
    }


def state_of(model: nn.Module) -> list:
    return [(key, value.clone()) for key, value in model.state_dict().items()]


def assert_same_state(before: list, after: list) -> None:
    for (key, value), (key_now, value_now) in zip(before, after, strict=True):
        assert key == key_now and torch.equal(value, value_now)


@torch.no_grad()
@pytest.mark.parametrize('make', MAKERS.values(), ids=MAKERS)
def test_state_dict_never_changes_and_detaching_leaves_no_trace(make):
    model = make()
    before, state = snapshot(model), state_of(model)
    ensemble = mmdiscard.attach(model, dict(groups='all'), GREEDY)
    assert_same_state(state, state_of(model))
    samples = cls_samples(2) if make is classifier else seg_samples(2)
    model.predict(images(2), samples)
    assert ensemble.last.states.shape[:2] == (2, 3)
    assert_same_state(state, state_of(model))
    ensemble.detach()
    ensemble.detach()
    assert snapshot(model) == before
    assert_same_state(state, state_of(model))


def test_leaving_the_context_detaches_also_on_exceptions():
    model = classifier()
    before = snapshot(model)
    with mmdiscard.attach(model, search=GREEDY) as ensemble:
        assert [group.name for group in ensemble.groups] == ['maxpool', 'layer2.0', 'layer3.0']
        assert snapshot(model) != before
    assert snapshot(model) == before
    with pytest.raises(RuntimeError, match='stop'), mmdiscard.attach(model, search=GREEDY):
        raise RuntimeError('stop')
    assert snapshot(model) == before


def test_a_forward_of_the_user_survives():
    model = classifier()
    own = model.backbone.forward
    model.backbone.forward = own
    mmdiscard.attach(model, search=GREEDY).detach()
    assert vars(model.backbone)['forward'] is own


@pytest.mark.parametrize('wrap', [lambda m: m, nn.DataParallel], ids=['bare', 'wrapped'])
def test_attaching_twice_is_refused_and_does_no_harm(wrap):
    model = classifier()
    with mmdiscard.attach(model, search=GREEDY):
        attached = snapshot(model)
        with pytest.raises(MMDiscardError, match=r'attached .* already; call `detach\(\)`'):
            mmdiscard.attach(wrap(model), search=GREEDY)
        assert snapshot(model) == attached
    mmdiscard.attach(model, search=GREEDY).detach()


@MODELS.register_module(force=True)
class FlatBackbone(nn.Module):
    """Subsamples nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, padding=1)

    def forward(self, inputs):
        return (self.conv(inputs),)


FLAT = dict(type='mmdiscard.FlatBackbone')
EXACT = dict(type='AverageAggregator', on='logits', align='exact')


@pytest.mark.parametrize(
    'model, settings, words',
    [
        ({}, dict(subsampling=dict(groups=['layer9'])), "'layer9'; choose from: 0: conv1"),
        ({}, dict(subsampling=dict(groups=[7])), 'no subsampling group 7'),
        ({}, dict(subsampling=dict(group='all')), "no option 'group'; it takes groups"),
        ({}, dict(search=dict(type='GreedySearch', budget=0)), 'at least 1; got 0'),
        ({}, dict(search=dict(type='GreedySearch', budget=-2)), 'at least 1; got -2'),
        ({}, dict(search=dict(type='GreedySearch', budget=2.0)), r'at least 1; got 2\.0'),
        ({}, dict(search=dict(type='GreedySearch', budget=65)), '65 is more than the 64 states'),
        ({}, dict(search=dict(type='SpreadStates', budget=65)), '65 is more than the 64 states'),
        ({}, dict(search=dict(type='FixedStates', states=[[4, 0, 0]])), "0..3 for group 'maxpool'"),
        (
            {},
            dict(search=dict(type='Hunt')),
            "unknown search 'Hunt'; choose one of ExhaustiveSearch",
        ),
        ({}, dict(search=dict(GREEDY, criterion=dict(type='Luck'))), "unknown criterion 'Luck'"),
        ({}, dict(aggregator=dict(type='Sum')), "unknown aggregator 'Sum'"),
        ({}, dict(aggregator=dict(EXACT, align='best')), "unknown alignment 'best'"),
        ({}, dict(aggregator=EXACT), "align='exact' translates output maps, and a classifier"),
        ({}, dict(max_rows=0), 'max_rows must be a whole number of at least 1; got 0'),
        (dict(backbone=FLAT), dict(subsampling=dict(groups='all')), 'nothing to search'),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_attached(model, settings, words):
    model = classifier(**model)
    before = snapshot(model)
    with pytest.raises(MMDiscardError, match=words):
        mmdiscard.attach(model, **settings)
    assert snapshot(model) == before


def test_nothing_to_search_says_which_layers_why_and_how_to_name_others():
    model = segmentor(backbone=UNET)
    words = r"`encoder.1.0`: output level 2 joins .*`encoder.2.0`.*groups=\[dict\(members=\['NAME'"
    with pytest.raises(MMDiscardError, match=words):
        mmdiscard.attach(model, dict(groups='all', input_size=64))


def test_groups_by_hand_are_searched():
    by_hand = dict(members=['layer3.0.conv1', 'layer3.0.downsample.0'])
    with mmdiscard.attach(classifier(), dict(groups=[by_hand, -1]), GREEDY) as ensemble:
        assert [group.name for group in ensemble.groups] == ['layer3.0', 'layer4.0']


class OtherModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 3, 3, 2)


@pytest.mark.parametrize(
    'model, words',
    [
        (OtherModel(), 'OtherModel is not supported; .* EncoderDecoder, ImageClassifier'),
        (nn.DataParallel(nn.Conv2d(3, 3, 3)), 'Conv2d is not supported; .* inside an inferencer'),
        ('resnet18', 'str is not supported'),
    ],
)
def test_unsupported_models_are_refused(model, words):
    with pytest.raises(MMDiscardError, match=words):
        mmdiscard.attach(model)


def test_unwrap_finds_the_model_inside():
    model = classifier()
    assert unwrap(nn.DataParallel(nn.DataParallel(model))) is model


@torch.no_grad()
def test_extracted_features_and_the_tensor_mode_stay_plain():
    model, batch = classifier(), images(2)
    feats, logits = model.extract_feat(batch)[0], model(batch, mode='tensor')
    with mmdiscard.attach(model, search=GREEDY):
        assert torch.equal(model.extract_feat(batch)[0], feats)
        assert torch.equal(model(batch, mode='tensor'), logits)


@pytest.mark.parametrize('make', [classifier, segmentor, mit_segmentor])
def test_training_goes_on_as_before_while_attached(make):
    model = make()
    samples = cls_samples(4) if make is classifier else seg_samples(4)
    model.train()
    twin = copy.deepcopy(model)
    with mmdiscard.attach(model, search=GREEDY):
        assert model.training and model.backbone.training
        losses = []
        for trained in (model, twin):
            torch.manual_seed(0)
            loss = trained.loss(images(4), samples)
            sum(value for key, value in loss.items() if 'loss' in key).backward()
            losses.append(loss)
        assert all(torch.equal(losses[0][key], losses[1][key]) for key in losses[1])
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert_same_state(state_of(twin), state_of(model))


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(search='GreedySearch'), 'search has to be a dict'),
        (dict(aggregator='AverageAggregator'), 'aggregator has to be a dict'),
        (
            dict(search=dict(type='GreedySearch', budget=2, criterion='EntropyCriterion')),
            'criterion has to be a dict',
        ),
        (dict(subsampling='all'), 'subsampling has to be a dict'),
        (dict(subsampling=dict(groups=0)), 'groups=0 is not known'),
        (dict(subsampling=dict(groups=[True])), 'no subsampling group True'),
        (dict(subsampling=dict(input_size=(64, 'x'))), 'input_size has to be'),
    ],
)
def test_settings_of_the_wrong_kind_say_what_would_be_right(settings, words):
    with pytest.raises(mmdiscard.MMDiscardError, match=words):
        mmdiscard.attach(classifier(), **settings)


def test_a_head_that_does_not_fit_leaves_nothing_attached():
    model = classifier(channels=31)
    for _ in range(2):
        with pytest.raises(mmdiscard.MMDiscardError, match='does not run on an image'):
            mmdiscard.attach(model)
    assert 'forward' not in vars(model.backbone)
