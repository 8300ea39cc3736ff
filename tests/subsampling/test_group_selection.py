"""Which groups are searched: by rule, by name, and by hand."""

import pytest
import torch
from small_models import SMALL_MIT, SMALL_RESNET, cls_backbone, images, seg_backbone
from torch import nn
from torch.nn import functional as F

from mmdiscard import MMDiscardError, translation_oracle
from mmdiscard.subsampling import SubsamplingGroup, SubsamplingMap, map_subsampling, select_groups
from mmdiscard.subsampling.strides import Layer

SIZE = (64, 64)
FOUND = [
    SubsamplingGroup('stem', ('stem.conv',), (2, 2), (1, 1)),
    SubsamplingGroup('layer2.0', ('layer2.0.a', 'layer2.0.b'), (2, 2), (2, 2)),
    SubsamplingGroup('layer3.0', ('layer3.0.a',), (2, 2), (4, 4)),
    SubsamplingGroup('layer4.0', ('layer4.0.a',), (2, 2), (8, 8)),
]


def mapped(groups: list[SubsamplingGroup]) -> SubsamplingMap:
    members = [(name, group) for group in groups for name in group.members]
    layers = [
        Layer(name, group.factor, group.stride, (1, 3, *SIZE), order)
        for order, (name, group) in enumerate(members)
    ]
    return SubsamplingMap(tuple(groups), (), {}, SIZE, layers=tuple(layers))


@pytest.mark.parametrize(
    'which, positions',
    [
        ('all', [0, 1, 2, 3]),
        ('inner', [1, 2]),
        (['layer2.0'], [1]),
        (['layer2.0.b'], [1]),
        ([-1, 0], [0, 3]),
        ([3, 'layer3.0', -1], [2, 3]),
        (('stem', 'stem.conv'), [0]),
    ],
)
def test_select_groups(which, positions):
    assert select_groups(mapped(FOUND), which) == tuple(FOUND[i] for i in positions)


@pytest.mark.parametrize(
    'found, which, words',
    [
        (FOUND, ['layer5.0'], "no subsampling group 'layer5.0'.*0: stem .*3: layer4.0"),
        (FOUND, [4], 'no subsampling group 4'),
        (FOUND, [-5], 'no subsampling group -5'),
        (FOUND, 'layer3.0', "'layer3.0' is not known; write 'auto', 'all', 'inner', or a list"),
        (FOUND, [], 'empty list; choose from: 0: stem'),
        (FOUND[:2], 'inner', r"leaves nothing of 2 group\(s\); use 'all'"),
        ([], 'all', 'nothing to search .* no layer does'),
        ([], ['stem'], 'nothing to search'),
    ],
)
def test_select_groups_says_what_would_be_right(found, which, words):
    with pytest.raises(MMDiscardError, match=words):
        select_groups(mapped(found), which)


def by_hand(backbone: nn.Module, *keys: object) -> tuple[SubsamplingGroup, ...]:
    return select_groups(map_subsampling(backbone, SIZE), keys, backbone)


def test_a_group_by_hand_is_the_one_that_discovery_finds():
    backbone = cls_backbone(SMALL_RESNET)
    found = map_subsampling(backbone, SIZE).groups
    hand = dict(members=['layer4.0.downsample.0', 'layer4.0.conv1'])
    assert by_hand(backbone, hand, 'maxpool', -1) == (found[1], found[4])


class Around(nn.Module):
    """A stem, and one of two modules that subsample by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.pool, self.shrink = Function(F.max_pool2d, 2), Function(F.adaptive_avg_pool2d, 4)

    def forward(self, x):
        return self.shrink(self.pool(self.stem(x)))


class Function(nn.Module):
    def __init__(self, function, size) -> None:
        super().__init__()
        self.function, self.size = function, size

    def forward(self, x):
        return self.function(x, self.size)


def test_a_module_of_unknown_kind_may_be_named():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Function(F.max_pool2d, 2))
    (group,) = by_hand(backbone, dict(members='1'))
    assert (group.members, group.factor, group.stride, group.levels) == (
        ('1',),
        (2, 2),
        (2, 2),
        (0,),
    )
    assert translation_oracle(backbone, [group], SIZE)[0].passed


class Skip(nn.Module):
    """The skip of an encoder-decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x):
        skipped = self.first(x)
        deep = self.down(skipped)
        return deep, skipped + F.interpolate(deep, scale_factor=2)


BY_HAND = {
    'unknown': ('ResNet', ['layer4.0.conv9'], "no module 'layer4.0.conv9'; similar .*conv1"),
    'no member': ('ResNet', [], r'dict\(members=.*got'),
    'strange key': ('ResNet', None, r'dict\(members=.*got'),
    'does not subsample': ('ResNet', ['bn1'], "'bn1' does not subsample .* what does: conv1 "),
    'unlike': ('ResNet', ['conv1', 'maxpool'], 'alike, .*stride 1x1.*; maxpool .*stride 2x2'),
    'no cut': ('ResNet', ['layer3.0.conv1'], r'past layer3.0.conv1.*there: layer3.0.downsample.0'),
    'attention': ('MiT', ['layers.0.1.0.attn.sr'], 'past layers.0.1.0.attn.sr, so a state'),
    'skip': ('skip', ['down'], "'down' cannot be searched: output level 1 joins"),
    'not displaceable': ('around', ['shrink'], "'shrink' cannot be searched: displacing"),
}
BUILD = {
    'ResNet': lambda: cls_backbone(SMALL_RESNET),
    'MiT': lambda: seg_backbone(SMALL_MIT),
    'skip': Skip,
    'around': Around,
}


@pytest.mark.parametrize('backbone, members, words', BY_HAND.values(), ids=BY_HAND)
def test_groups_by_hand_are_checked(backbone, members, words):
    hand = dict(member=['x']) if members is None else dict(members=members)
    with pytest.raises(MMDiscardError, match=words):
        by_hand(BUILD[backbone](), hand)


def test_groups_that_share_a_layer_are_refused():
    with pytest.raises(MMDiscardError, match="same layer: 'layer3.0.conv1' and 'layer3'"):
        by_hand(cls_backbone(SMALL_RESNET), 'layer3.0', dict(members=['layer3']))


def test_a_layer_that_is_left_out_is_refused_with_the_reason():
    with pytest.raises(MMDiscardError, match=r"'layers.0.1.0.attn.sr' \(not on the trunk"):
        by_hand(seg_backbone(SMALL_MIT), 'layers.0.1.0.attn.sr')


def test_nothing_to_search_says_which_why_and_how_to_go_on():
    class Pads(nn.Sequential):
        """No layer of it can be searched, each for a reason of its own."""

        def __init__(self) -> None:
            mirror = nn.Conv2d(3, 3, 3, 2, 1, padding_mode='reflect')
            super().__init__(mirror, *[nn.MaxPool2d(2)] * 2)

    backbone = Pads()
    reasons = r"left out: `0`: it pads with mode 'reflect'.*; `1`: it is called more than once"
    with pytest.raises(MMDiscardError, match=reasons + r".*groups=\[dict\(members=\['NAME'"):
        select_groups(map_subsampling(backbone, SIZE), 'all', backbone)


@torch.no_grad()
def test_selecting_by_hand_leaves_no_trace():
    backbone = cls_backbone(SMALL_RESNET).train() or cls_backbone(SMALL_RESNET)
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    flags = [module.training for module in backbone.modules()]
    by_hand(backbone, dict(members=['layer3']))
    assert [module.training for module in backbone.modules()] == flags
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
    assert torch.isfinite(backbone(images(1))[0]).all()
