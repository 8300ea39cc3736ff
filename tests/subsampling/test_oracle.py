"""Every trunk group of the supported architectures obeys the translation law, untrained."""

import pytest
import torch
from mmpretrain.registry import MODELS as CLS_MODELS
from mmseg.registry import MODELS as SEG_MODELS
from small_models import SMALL_RESNET, cls_backbone

from mmdiscard import find_subsampling, translation_oracle
from mmdiscard.subsampling import SubsamplingGroup

MIT_B0 = dict(
    type='MixVisionTransformer',
    embed_dims=32,
    num_layers=[2, 2, 2, 2],
    num_heads=[1, 2, 5, 8],
    patch_sizes=[7, 3, 3, 3],
    sr_ratios=[8, 4, 2, 1],
)
D8 = dict(
    type='ResNetV1c', depth=50, base_channels=32, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)
)
SWIN = dict(
    embed_dims=48, depths=[2, 2, 2, 2], num_heads=[3, 6, 12, 24]
)  # Swin-T, fewer and thinner
CONVNEXT = dict(depths=[1, 1, 3, 1], channels=[48, 96, 192, 384])  # ConvNeXt-T likewise
BACKBONES = {
    'ResNet-18': (CLS_MODELS, dict(type='ResNet', depth=18), 128, 5),
    'ResNet-50': (CLS_MODELS, dict(type='ResNet', depth=50, base_channels=32), 96, 5),
    'ResNetV1c-D8': (SEG_MODELS, D8, 64, 3),
    'MobileNetV2': (CLS_MODELS, dict(type='MobileNetV2'), 224, 5),
    'ShuffleNetV2': (CLS_MODELS, dict(type='ShuffleNetV2'), 128, 5),
    'Swin': (CLS_MODELS, dict(type='SwinTransformer', arch=SWIN), 224, 4),
    'ConvNeXt': (CLS_MODELS, dict(type='ConvNeXt', arch=CONVNEXT), 128, 4),
    'MiT-B0': (SEG_MODELS, MIT_B0, 128, 4),
}


def untrained(registry, config):
    torch.manual_seed(0)
    backbone = registry.build(config)
    backbone.eval()
    return backbone


@pytest.mark.parametrize('registry, config, size, count', BACKBONES.values(), ids=BACKBONES)
def test_trunk_groups_pass(registry, config, size, count):
    backbone = untrained(registry, config)
    groups = find_subsampling(backbone, (size, size))
    reports = translation_oracle(backbone, groups, (size, size))
    assert [report.group for report in reports] == [group.name for group in groups]
    assert len(reports) == count
    assert {report.group: report.ratio for report in reports if not report.passed} == {}


def test_spatial_reduction_of_attention_fails():
    backbone = untrained(SEG_MODELS, MIT_B0)
    by_hand = [
        SubsamplingGroup(name, (name,), (module.stride[0],) * 2, (32 // module.stride[0],) * 2)
        for name, module in backbone.named_modules()
        if name.endswith('attn.sr')
    ]
    assert len(by_hand) == 6
    assert [r.group for r in translation_oracle(backbone, by_hand, (128, 128)) if r.passed] == []


@pytest.mark.parametrize(
    'change',
    [dict(stride=(2, 2)), dict(stride=(8, 8)), dict(members=('layer2.0.conv1',))],
    ids=['unit too small', 'unit too large', 'member forgotten'],
)
def test_wrong_groups_fail(change):
    backbone = untrained(
        CLS_MODELS, dict(type='ResNet', depth=18, out_indices=(1,), base_channels=16)
    )
    group = find_subsampling(backbone, (128, 128))[-1]
    assert group.name == 'layer2.0' and group.stride == (4, 4)
    (right,) = translation_oracle(backbone, [group], (128, 128))
    wrong = SubsamplingGroup(**(vars(group) | change))
    (report,) = translation_oracle(backbone, [wrong], (128, 128))
    assert right.ratio < 0.01 and not report.passed


def test_the_oracle_leaves_no_trace():
    backbone = cls_backbone(SMALL_RESNET)
    for index, module in enumerate(backbone.modules()):
        module.training = index % 2 > 0
    flags = [module.training for module in backbone.modules()]
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    rng = torch.get_rng_state()
    translation_oracle(backbone, find_subsampling(backbone, (64, 64)), (64, 64))
    assert [module.training for module in backbone.modules()] == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
