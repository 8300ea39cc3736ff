"""Which checkpoints are taken: those that set all that a prediction uses when MM loads them."""

import contextlib
import copy

import pytest
import torch
from mmengine.model import BaseTTAModel
from mmpretrain.registry import MODELS as CLS_MODELS
from small_models import FCN_HEAD, SMALL_RESNET, SMALL_SWIN, classifier, segmentor
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from mmdiscard import MMDiscardError
from mmdiscard.engine import check_checkpoint

TINY = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
SMALL_SWIN_V2 = SMALL_SWIN | dict(
    type='SwinTransformerV2', arch=SMALL_SWIN['arch'] | dict(extra_norm_every_n_blocks=0)
)
SEG_SWIN = dict(
    type='SwinTransformer',
    embed_dims=16,
    depths=(2, 2),
    num_heads=(1, 2),
    out_indices=(0, 1),
    strides=(4, 2),
)
SEG_SWIN_HEAD = FCN_HEAD | dict(in_index=1)
RESNET_AWS = SMALL_RESNET | dict(conv_cfg=dict(type='ConvAWS'))
EMA_HEAD = FCN_HEAD | dict(type='EMAHead', ema_channels=8, num_bases=4, num_stages=2, momentum=0.1)
EMA_HEAD.pop('num_convs')


class TTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


@pytest.fixture
def model():
    return classifier()


def transformer(kind='VisionTransformer', size=64, **backbone):
    """A classifier of plain tokens: ViT, DeiT or BEiT."""
    head = 'DeiTClsHead' if kind == 'DistilledVisionTransformer' else 'VisionTransformerClsHead'
    if kind == 'BEiTViT':
        backbone = dict(out_type='avg_featmap', use_abs_pos_emb=False) | backbone
        backbone |= dict(use_rel_pos_bias=True)
        head = 'LinearClsHead'
    backbone = dict(patch_size=16) | backbone
    return classifier(
        backbone=dict(type=kind, arch=TINY, img_size=size, **backbone),
        neck=None,
        head=dict(type=head, num_classes=7, in_channels=32),
    )


class Grid(nn.Module):
    """Coordinates, which the model builds itself."""

    def __init__(self):
        super().__init__()
        self.register_buffer('cells', torch.linspace(0, 1, 5))


class Tied(nn.Module):
    """Two names of the same weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.second.weight = self.first.weight


class ChokingOnOthers(nn.Module):
    """A loading hook that expects the names of its own model."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self._register_load_state_dict_pre_hook(lambda weights, prefix, *_: weights['own.scale'])


def with_module(name, module):
    model = classifier()
    model.add_module(name, module)
    return model


def without(model, *endings):
    """The weights of a model, all but those whose names end in one of ``endings``."""
    weights = model.state_dict()
    left = {key: value for key, value in weights.items() if not key.endswith(endings)}
    assert len(left) < len(weights), 'nothing is left out: not much of a test'
    return left


def assert_refused(model, weights, words):
    with pytest.raises(MMDiscardError, match=words) as caught:
        check_checkpoint(model, weights)
    assert '\n' not in str(caught.value)


# ------------------------------------------------------------------------------------------ taken
@pytest.mark.parametrize(
    'wrap', [lambda m: m, nn.DataParallel, TTA], ids=['bare', 'wrapped', 'TTA']
)
@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('nested', [False, True], ids=['plain', 'nested'])
def test_the_checkpoint_of_the_model_passes(model, wrap, prefix, nested):
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    check_checkpoint(wrap(model), dict(state_dict=weights, meta={}) if nested else weights)


@pytest.mark.parametrize(
    'build, endings',
    [
        (lambda: classifier(backbone=SMALL_SWIN, channels=64), 'relative_position_index'),
        (lambda: classifier(backbone=SMALL_SWIN_V2, channels=64), 'relative_coords_table'),
        (lambda: classifier(backbone=SMALL_SWIN_V2, channels=64), 'relative_position_index'),
        (lambda: transformer('BEiTViT'), 'relative_position_index'),
        (lambda: segmentor(backbone=SEG_SWIN, head=SEG_SWIN_HEAD), 'relative_position_index'),
        (lambda: classifier(backbone=RESNET_AWS), ('weight_gamma', 'weight_beta')),
        (lambda: with_module('grid', Grid()), 'grid.cells'),
        (lambda: with_module('tied', Tied()), 'second.weight'),
        (lambda: classifier(), 'num_batches_tracked'),
    ],
    ids=lambda value: str(value) if isinstance(value, (str, tuple)) else '',
)
def test_what_the_model_builds_itself_may_be_absent(build, endings):
    model = build()
    check_checkpoint(model, without(model, *([endings] if isinstance(endings, str) else endings)))


@pytest.mark.parametrize('kind', ['VisionTransformer', 'DistilledVisionTransformer'])
def test_position_embeddings_are_resized_on_loading(kind):
    trained, tested = transformer(kind, 64), transformer(kind, 96)
    before = copy.deepcopy(tested.state_dict())
    check_checkpoint(tested, dict(state_dict=trained.state_dict()))
    after = tested.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_prefixes_are_added_on_loading():
    pytest.importorskip('timm')
    model = CLS_MODELS.build(
        dict(type='mmpretrain.TimmClassifier', model_name='resnet18', num_classes=7)
    )
    check_checkpoint(model, dict(state_dict=model.model.state_dict()))
    assert_refused(model, without(model.model, 'layer1.0.conv1.weight'), '1 weights absent: model')


def test_what_a_prediction_does_not_use_may_be_absent_misfit_or_besides():
    def build(classes):
        return segmentor(
            auxiliary_head=FCN_HEAD | dict(in_index=2, in_channels=16, num_classes=classes)
        )

    weights = {k: v for k, v in build(5).state_dict().items() if not k.startswith('auxiliary_head')}
    check_checkpoint(build(5), weights | dict(extra=torch.zeros(1)))
    check_checkpoint(build(5), build(9).state_dict())


def test_averaged_weights_beside_the_others_are_left_alone(model):
    averaged = {f'module.{key}': value for key, value in model.state_dict().items()}
    averaged['steps'] = torch.tensor(7)
    check_checkpoint(model, dict(state_dict=model.state_dict(), ema_state_dict=averaged))
    check_checkpoint(model, averaged)  # the weights of an AveragedModel alone


def test_adapters_are_judged_by_what_their_hook_reports():
    model = CLS_MODELS.build(
        dict(
            type='mmpretrain.LoRAModel',
            module=dict(type='mmpretrain.VisionTransformer', arch=TINY, img_size=64, patch_size=16),
            rank=2,
            targets=[dict(type='qkv')],
        )
    )
    adapters = {f'module.{key}': value for key, value in model.state_dict().items()}
    assert adapters and all('.lora_' in key for key in adapters)
    check_checkpoint(model, dict(state_dict=adapters))


def test_a_model_that_cannot_be_attached_to_is_judged_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    check_checkpoint(model, model.state_dict())
    assert_refused(model, without(model, 'running_var'), '1 weights absent: 1.running_var')


# ---------------------------------------------------------------------------------------- refused
def test_absent_weights_are_counted_and_the_first_named(model):
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith('backbone.layer1')}
    absent = [
        key
        for key in model.state_dict()
        if key.startswith('backbone.layer1') and not key.endswith('num_batches_tracked')
    ]
    with pytest.raises(MMDiscardError) as caught:
        check_checkpoint(model, weights)
    message = str(caught.value)
    assert (
        f'{len(absent)} weights absent: {", ".join(absent[:3])} and {len(absent) - 3} more'
        in message
    )
    assert 'of another shape' not in message and message.endswith('trained with this config')


def test_weights_of_another_shape_are_shown_with_both(model):
    with pytest.raises(MMDiscardError) as caught:
        check_checkpoint(model, classifier(num_classes=3).state_dict())
    assert '2 weights of another shape' in str(caught.value)
    assert 'head.fc.weight ((3, 32) in the checkpoint, (7, 32) in the model)' in str(caught.value)


@pytest.mark.parametrize(
    'build, ending',
    [
        (lambda: classifier(), 'running_mean'),
        (lambda: with_module('frozen', FrozenBatchNorm2d(4)), 'frozen.weight'),
        (lambda: segmentor(head=EMA_HEAD), 'bases'),
        (lambda: transformer(), 'pos_embed'),
        (lambda: classifier(backbone=SMALL_SWIN, channels=64), 'relative_position_bias_table'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_what_was_learned_must_be_there(build, ending):
    model = build()
    assert_refused(model, without(model, ending), f'weights absent: .*{ending}')


@pytest.mark.parametrize(
    'build, other',
    [
        (lambda: classifier(), lambda: segmentor()),
        (lambda: transformer(), lambda: classifier(backbone=SMALL_SWIN, channels=64)),
        (lambda: transformer(), lambda: transformer(patch_size=8)),
        (lambda: classifier(backbone=SMALL_SWIN, channels=64), lambda: transformer('BEiTViT')),
    ],
)
def test_the_checkpoint_of_another_model_is_refused(build, other):
    weights = other().state_dict()
    assert_refused(build(), weights, 'does not belong to this model')


@pytest.mark.parametrize(
    'checkpoint, words',
    [
        ([1, 2], 'holds a list, not weights'),
        (nn.Linear(1, 1), 'holds a Linear, not weights'),
        (dict(model=dict(weight=torch.ones(1)), epoch=3), "what it has is under 'model', 'epoch'"),
        (dict(state_dict=None), "what it has is under 'state_dict'"),
        (dict(ema_state_dict=dict(w=torch.ones(1)), meta={}), "is under 'ema_state_dict', 'meta'"),
        (dict(state_dict=dict(weight=[1.0])), "what it has is under 'state_dict'"),
    ],
)
def test_a_file_without_weights_is_refused(model, checkpoint, words):
    assert_refused(model, checkpoint, words)


def test_a_hook_that_fails_on_other_weights_is_named():
    model = with_module('own', ChokingOnOthers())
    check_checkpoint(model, model.state_dict())
    assert_refused(model, classifier().state_dict(), "which ends in KeyError: 'own.scale'")


def test_the_model_keeps_its_weights(model):
    before = copy.deepcopy(model.state_dict())
    for other in (classifier(num_classes=3), classifier()):
        weights = {key: value + 1 for key, value in other.state_dict().items()}
        with contextlib.suppress(MMDiscardError):
            check_checkpoint(model, weights)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
