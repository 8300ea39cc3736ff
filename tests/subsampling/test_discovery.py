import pytest
import torch
from small_models import (
    SHUFFLENET,
    SMALL_CONVNEXT,
    SMALL_D8,
    SMALL_MIT,
    SMALL_RESNET,
    SMALL_RESNET_4_LEVELS,
    SMALL_SWIN,
    cls_backbone,
    seg_backbone,
)
from torch import nn

from mmdiscard import MMDiscardError, find_subsampling
from mmdiscard.subsampling import map_subsampling
from mmdiscard.subsampling.discovery import OFF_TRUNK

SIZE = (64, 64)


def described(groups):
    return {group.name: (group.stride[0], group.factor[0]) for group in groups}


RESNET = {'conv1': (1, 2), 'maxpool': (2, 2), 'layer2.0': (4, 2), 'layer3.0': (8, 2)}
RESNET |= {'layer4.0': (16, 2)}


BACKBONES = {
    'ResNet-18': (cls_backbone, SMALL_RESNET, RESNET),
    'ResNet-50': (cls_backbone, SMALL_RESNET | dict(depth=50), RESNET),
    'checkpointed, frozen': (
        cls_backbone,
        SMALL_RESNET | dict(with_cp=True, frozen_stages=2, init_cfg=dict(type='Kaiming')),
        RESNET,
    ),
    'averaged shortcuts': (
        cls_backbone,
        SMALL_RESNET | dict(type='ResNetV1d'),
        {'stem.0.conv': (1, 2)} | {name: at for name, at in RESNET.items() if name != 'conv1'},
    ),
    'D8': (seg_backbone, SMALL_D8, {'stem.0': (1, 2), 'maxpool': (2, 2), 'layer2.0': (4, 2)}),
    'MobileNetV2': (
        cls_backbone,
        dict(type='MobileNetV2', widen_factor=0.25),
        {'conv1.conv': (1, 2)}
        | {f'layer{n}.0.conv.1.conv': (s, 2) for n, s in ((2, 2), (3, 4), (4, 8), (6, 16))},
    ),
    'ShuffleNetV2': (
        cls_backbone,
        SHUFFLENET,
        {'conv1.conv': (1, 2), 'maxpool': (2, 2)}
        | {f'layers.{n}.0': (4 * 2**n, 2) for n in range(3)},
    ),
    'Swin': (
        cls_backbone,
        SMALL_SWIN,
        {'patch_embed.projection': (1, 4)}
        | {f'stages.{n}.downsample.sampler': (4 * 2**n, 2) for n in range(3)},
    ),
    'ConvNeXt': (
        cls_backbone,
        SMALL_CONVNEXT,
        {'downsample_layers.0.0': (1, 4)}
        | {f'downsample_layers.{n}.1': (2 * 2**n, 2) for n in (1, 2, 3)},
    ),
    'MiT': (
        seg_backbone,
        SMALL_MIT,
        {'layers.0.0.projection': (1, 4)}
        | {f'layers.{n}.0.projection': (2 * 2**n, 2) for n in (1, 2, 3)},
    ),
    'ViT': (
        cls_backbone,
        dict(type='VisionTransformer', arch='deit-t', patch_size=16, img_size=64),
        {'patch_embed.projection': (1, 16)},
    ),
}


@pytest.mark.parametrize('build, config, expected', BACKBONES.values(), ids=BACKBONES)
@pytest.mark.parametrize('size', [SIZE, (70, 95)], ids=['even', 'odd'])
def test_groups_of_backbones(build, config, expected, size):
    if config['type'] == 'VisionTransformer':
        size = SIZE  # accepts no other
    groups = find_subsampling(build(config), size)
    assert described(groups) == expected
    assert list(described(groups)) == list(expected)  # in execution order
    assert all(g.factor[0] == g.factor[1] and g.stride[0] == g.stride[1] for g in groups)


def test_layers_that_subsample_together_are_one_group():
    groups = {group.name: group for group in find_subsampling(cls_backbone(SMALL_RESNET), SIZE)}
    assert set(groups['layer3.0'].members) == {'layer3.0.conv1', 'layer3.0.downsample.0'}
    assert groups['conv1'].members == ('conv1',)


def test_strides_of_levels_and_which_groups_displace_them():
    found = map_subsampling(seg_backbone(SMALL_RESNET_4_LEVELS), SIZE)
    assert found.strides == ((4, 4), (8, 8), (16, 16), (32, 32))
    levels = [group.levels for group in found.groups]
    assert levels == [(0, 1, 2, 3), (0, 1, 2, 3), (1, 2, 3), (2, 3), (3,)]


def test_spatial_reduction_of_attention_is_rejected():
    backbone = seg_backbone(SMALL_MIT)
    found = map_subsampling(backbone, SIZE)
    reducing = [name for name, _ in backbone.named_modules() if name.endswith('attn.sr')]
    assert len(reducing) == 3
    assert found.rejected == dict.fromkeys(reducing, OFF_TRUNK)


def snapshot(backbone: nn.Module) -> list:
    flags = [module.training for module in backbone.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.modules()]
    state = [(key, value.clone()) for key, value in backbone.state_dict().items()]
    return [flags, hooks, torch.get_rng_state(), state]


@pytest.mark.parametrize('config', [SMALL_RESNET, SMALL_SWIN], ids=['ResNet', 'Swin'])
def test_discovery_leaves_no_trace(config):
    backbone = cls_backbone(config)
    for index, module in enumerate(backbone.modules()):
        module.training = index % 3 > 0
    flags, hooks, rng, state = snapshot(backbone)
    find_subsampling(backbone, SIZE)
    flags_now, hooks_now, rng_now, state_now = snapshot(backbone)
    assert (flags_now, hooks_now) == (flags, hooks)
    assert torch.equal(rng_now, rng)
    for (key, value), (key_now, value_now) in zip(state, state_now, strict=True):
        assert key == key_now and torch.equal(value, value_now)


@pytest.mark.parametrize(
    'config, count',
    [(SMALL_RESNET, 5), (SMALL_RESNET | dict(depth=50), 5), (SMALL_CONVNEXT, 4)],
    ids=['ResNet-18', 'ResNet-50', 'ConvNeXt'],
)
def test_branches_that_start_at_zero_do_not_hide_groups(config, count):
    backbone = cls_backbone(config)
    before = find_subsampling(backbone, SIZE)
    for name, parameter in backbone.named_parameters():
        if name.split('.')[-2] in ('bn2', 'bn3') or name.endswith('gamma'):
            nn.init.zeros_(parameter)
    assert find_subsampling(backbone, SIZE) == before and len(before) == count


def test_sizes_that_a_backbone_refuses_are_named():
    with pytest.raises(MMDiscardError, match=r'ResNet cannot .* \(1, 0\).*`input_size`'):
        find_subsampling(cls_backbone(SMALL_RESNET), (1, 0))


class Pooled(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs):
        return self.layers(inputs)


@pytest.mark.parametrize(
    'layer, reason',
    [
        (nn.Conv2d(3, 3, 3, 2, 1, padding_mode='reflect'), 'reflect'),
        (nn.Sequential(*[nn.MaxPool2d(2)] * 2), 'called more than once'),
    ],
    ids=['reflect', 'shared'],
)
def test_layers_that_cannot_be_displaced_are_rejected_with_a_reason(layer, reason):
    found = map_subsampling(Pooled(layer, nn.Conv2d(3, 3, 3, 2, 1)), SIZE)
    assert [group.members for group in found.groups] == [('layers.1',)]
    assert [reason in text for text in found.rejected.values()] == [True]


def test_anisotropic_factors_are_groups_too():
    (group,) = find_subsampling(Pooled(nn.MaxPool2d((2, 1)), nn.Conv2d(3, 3, 3)), SIZE)
    assert (group.factor, group.stride, group.num_indices) == ((2, 1), (1, 1), 2)


class Sized(Pooled):
    """Takes images of one size alone, or of any, and keeps the sizes in mind."""

    def __init__(self, size: int | None) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 2, 1))
        self.size, self.seen = size, []

    def forward(self, inputs):
        self.seen.append(tuple(inputs.shape[2:]))
        assert self.size in (None, inputs.shape[-1])
        return super().forward(inputs)


def test_discovery_takes_two_forwards_one_of_them_small():
    free, fixed = Sized(None), Sized(400)
    found, same = map_subsampling(free, (200, 400)), map_subsampling(fixed, (200, 400))
    assert found.groups == same.groups and found.input_size == same.input_size == (200, 400)
    assert [group.stride for group in found.groups] == [(1, 1), (2, 2), (4, 4)]
    assert free.seen == fixed.seen == [(200, 400), (64, 96)]
    assert found.small_size == (64, 96) and same.small_size == (200, 400)
