"""Models of timm, through MMPretrain's classifier for them."""

import pytest
import torch
from mmpretrain.registry import MODELS
from small_models import assert_near, cls_samples, images, randomize
from test_attach import assert_same_state, snapshot, state_of
from torch import nn

import mmdiscard

SIZE = (64, 64)
SMALL_SWIN = dict(depths=(1, 1, 1, 1), embed_dim=16, num_heads=(1, 1, 2, 2), window_size=2)
SMALL_COAT = dict(img_size=64, serial_depths=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32))
STAGES = dict(depths=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32), num_heads=(1, 1, 2, 2))
PATCHES = [(f'model.patch_embed{n}.proj', 2**n if n > 1 else 1) for n in (1, 2, 3, 4)]
MODELS_OF_TIMM = {
    'resnet18': (
        {},
        [('model.conv1', 1), ('model.maxpool', 2)]
        + [(f'model.layer{n}.0', 2**n) for n in (2, 3, 4)],
    ),
    'mobilevitv2_050': (
        {},
        [('model.stem.conv', 1)]
        + [(f'model.stages.{n}.0.conv2_kxk.conv', 2**n) for n in (1, 2)]
        + [(f'model.stages.{n}.0.conv2_kxk.conv', 2**n) for n in (3, 4)],
    ),
    'pvt_v2_b0': (
        STAGES,
        [('model.patch_embed.proj', 1)]
        + [(f'model.stages.{n}.downsample.proj', 2 * 2**n) for n in (1, 2, 3)],
    ),
    'coat_lite_tiny': (SMALL_COAT, PATCHES),
    'swin_tiny_patch4_window7_224': (
        SMALL_SWIN | dict(img_size=64),
        [('model.patch_embed.proj', 1)],
    ),
}


def build(name: str) -> nn.Module:
    model = dict(type='TimmClassifier', model_name=name, pretrained=False, num_classes=7)
    return randomize(MODELS.build(model | MODELS_OF_TIMM[name][0]))


@torch.no_grad()
@pytest.mark.parametrize('name', MODELS_OF_TIMM)
def test_groups_search_and_nothing_left_behind(name):
    model, batch = build(name), images(2)
    plain, before, state = model(batch), snapshot(model), state_of(model)
    groups = mmdiscard.find_subsampling(model, SIZE)
    assert [(group.name, group.stride[0]) for group in groups] == MODELS_OF_TIMM[name][1]
    subsampling = dict(groups='all', input_size=SIZE)
    with mmdiscard.attach(model, subsampling, dict(type='GreedySearch', budget=3)) as ensemble:
        assert_same_state(state, state_of(model))
        (one, two) = model.test_step(dict(inputs=batch, data_samples=cls_samples(2)))
        assert ensemble.last.states.shape == (2, 3, len(groups)) and 1 < ensemble.last.cost < 3.1
        merged = ensemble.predict(batch).softmax(1)
        assert torch.equal(torch.stack([one.pred_score, two.pred_score]), merged)
        assert not torch.equal(merged, plain.softmax(1))
        outputs = ensemble.evaluate(batch, torch.zeros(1, len(groups), dtype=torch.long))
        assert torch.equal(outputs.logits[:, 0], plain)
    assert snapshot(model) == before and torch.equal(model(batch), plain)
    assert_same_state(state, state_of(model))


@torch.no_grad()
@pytest.mark.parametrize('name', MODELS_OF_TIMM)
def test_one_state_is_the_plain_model(name):
    model, batch = build(name), images(2)
    plain = [sample.pred_score for sample in model.predict(batch)]
    subsampling = dict(groups='all', input_size=SIZE)
    with mmdiscard.attach(model, subsampling, dict(type='GreedySearch', budget=1)):
        merged = [sample.pred_score for sample in model.predict(batch)]
    assert all(map(torch.equal, merged, plain))


@torch.no_grad()
@pytest.mark.parametrize('name', ['coat_lite_tiny', 'swin_tiny_patch4_window7_224', 'pvt_v2_b0'])
def test_shared_prefixes_change_nothing(name):
    model, batch = build(name), images(2)
    search = dict(type='SpreadStates', budget=4)
    subsampling = dict(groups='all', input_size=SIZE)
    average = dict(type='AverageAggregator', on='logits', align='none')
    with mmdiscard.attach(model, subsampling, search, average) as ensemble:
        merged = ensemble.predict(batch)
        singly = ensemble.evaluate(batch, ensemble.last.states[0]).logits
    assert_near(merged, singly.mean(1))


def test_levels_are_maps_whatever_the_layout():
    model = build('swin_tiny_patch4_window7_224')
    with mmdiscard.attach(model, dict(groups='all', input_size=SIZE)) as ensemble:
        state = torch.zeros(1, len(ensemble.groups), dtype=torch.long)
        (level,) = ensemble.evaluate(images(1), state).features
    assert level.shape == (1, 1, 128, 2, 2)


def test_a_model_without_scores_is_refused():
    model = MODELS.build(dict(type='TimmClassifier', model_name='resnet18', num_classes=0))
    model.model.global_pool = nn.Identity()
    before = snapshot(model)
    with pytest.raises(mmdiscard.MMDiscardError, match='one score per class'):
        mmdiscard.attach(model)
    assert snapshot(model) == before
