"""Where rows of different resolution meet, a group is a cut for them or is left out."""

import pytest
from small_models import UNET, seg_backbone
from torch import nn
from torch.nn import functional as F

from mmdiscard.subsampling import map_subsampling, translation_oracle
from mmdiscard.subsampling.reachability import levels_behind, levels_touched

SIZE = (64, 64)


class TwoBranches(nn.Module):
    """Half-resolution details beside a deeper context, which is added to them if ``fused``."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.detail = nn.Conv2d(3, 4, 3, 2, 1)
        self.context = nn.Conv2d(3, 4, 3, 2, 1)
        self.deeper = nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x):
        detail, context = self.detail(x), self.deeper(self.context(x))
        if self.fused:
            detail = detail + F.interpolate(context, scale_factor=2)
        return detail, context


def test_branches_that_subsample_alike_are_one_group():
    found = map_subsampling(TwoBranches(fused=False), SIZE)
    assert [group.members for group in found.groups] == [('detail', 'context'), ('deeper',)]
    assert [group.levels for group in found.groups] == [(0, 1), (1,)]
    assert found.rejected == {}


def test_a_group_that_a_level_mixes_with_others_is_left_out():
    backbone = TwoBranches(fused=True)
    found = map_subsampling(backbone, SIZE)
    assert [group.members for group in found.groups] == [('detail', 'context')]
    assert found.rejected['deeper'].startswith('output level 0 joins')
    reports = translation_oracle(backbone, found.groups, SIZE)
    assert [report.passed for report in reports] == [True]


def test_behind_and_touched():
    found = map_subsampling(TwoBranches(fused=True), SIZE)
    assert levels_behind(found.flow, ['deeper'], found.deepest) == (1,)
    assert levels_touched(found.flow, ['deeper']) == (0, 1)
    assert levels_behind(found.flow, ['detail'], found.deepest) == ()
    assert levels_touched(found.flow, ['detail']) == (0,)


def test_skips_of_an_encoder_decoder_leave_nothing():
    unet = seg_backbone(UNET)
    found = map_subsampling(unet, SIZE)
    assert found.groups == ()
    assert len(found.rejected) == 2 and all(' join' in why for why in found.rejected.values())


class Hidden(nn.Module):
    """Subsamples by a function, between two layers."""

    def __init__(self, pool=lambda x: F.max_pool2d(x, 2)) -> None:
        super().__init__()
        self.pool = pool
        self.first, self.last = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x):
        return self.last(self.pool(self.first(x)))


@pytest.mark.parametrize(
    'pool', [lambda x: F.max_pool2d(x, 2), lambda x: x[..., ::2, ::2]], ids=['function', 'slicing']
)
@pytest.mark.parametrize('size', [SIZE, (70, 95)], ids=['even', 'odd'])
def test_what_no_layer_explains_is_counted_and_named(pool, size):
    backbone = Hidden(pool)
    found = map_subsampling(backbone, size)
    assert [(g.name, g.stride) for g in found.groups] == [('first', (1, 1)), ('last', (4, 4))]
    assert found.strides == ((8, 8),) and found.unseen == ((4, 4),)
    reports = translation_oracle(backbone, found.groups, (128, 128))
    assert all(report.passed for report in reports)


def test_convolutions_without_padding_hide_nothing():
    layers = [nn.Conv2d(3, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 4, 5), nn.MaxPool2d(2)]
    found = map_subsampling(nn.Sequential(*layers), (32, 32))
    assert [g.stride for g in found.groups] == [(1, 1), (2, 2)] and found.unseen == ()


@pytest.mark.parametrize('channels', [8, 16, 64])
@pytest.mark.parametrize('size', [SIZE, (80, 48)], ids=['square', 'wide'])
def test_channels_last_maps_are_recognised(channels, size):
    class ChannelsLast(nn.Conv2d):
        def forward(self, x):
            maps = super().forward(x)
            return maps, maps.permute(0, 2, 3, 1), maps.flatten(2)

    found = map_subsampling(ChannelsLast(3, channels, 8, 8), size)
    assert found.strides == ((8, 8), (8, 8), (0, 0))
    assert found.channels_last == (False, True, False)
