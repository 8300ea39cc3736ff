"""Models whose images or features are not laid out as those of most are."""

import pytest
import torch
from small_models import SMALL_RESNET_4_LEVELS, seg_samples, segmentor
from torch import nn
from torch.nn import functional as F

from mmdiscard import MMDiscardError, attach, find_subsampling, translation_oracle

SPREAD = dict(type='SpreadStates', budget=4)
SIZE = dict(groups='all', input_size=(64, 64))


def noise(channels: int, side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((2, channels, side, side), generator=generator)


class Bands(nn.Module):
    """Six bands become three in front of a trunk for RGB images."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.bands, self.trunk = nn.Conv2d(6, 3, 1), trunk

    def forward(self, x):
        return self.trunk(self.bands(x))


def six_bands() -> nn.Module:
    model = segmentor(backbone=SMALL_RESNET_4_LEVELS)
    model.backbone = Bands(model.backbone).eval()
    return model


@torch.no_grad()
@pytest.mark.parametrize('options', [{}, dict(in_channels=6)], ids=['found out', 'given'])
def test_images_of_six_bands(options):
    model = six_bands()
    groups = find_subsampling(model, (64, 64), **options)
    assert len(groups) == 5
    reports = translation_oracle(model, groups, (96, 96), **options)
    assert all(report.passed for report in reports[:3])
    plain = model.encode_decode(noise(6), metas())
    with attach(model, SIZE | options, SPREAD) as ensemble:
        merged = model.encode_decode(noise(6), metas())
        assert [group.members for group in ensemble.groups] == [group.members for group in groups]
    assert merged.shape == plain.shape and not torch.equal(merged, plain)


def metas() -> list[dict]:
    return [sample.metainfo for sample in seg_samples(2)]


def test_the_preprocessor_says_which_of_several_numbers_is_right():
    class First(nn.Module):
        """Takes any number of channels, and uses three."""

        def __init__(self, trunk: nn.Module) -> None:
            super().__init__()
            self.trunk, self.seen = trunk, set()

        def forward(self, x):
            self.seen.add(x.shape[1])
            return self.trunk(x[:, :3])

    model = segmentor(backbone=SMALL_RESNET_4_LEVELS)
    model.backbone = First(model.backbone).eval()
    model.data_preprocessor.register_buffer('mean', torch.zeros(5, 1, 1), persistent=False)
    with attach(model, SIZE, SPREAD):
        assert model.backbone.seen == {5}


@pytest.mark.parametrize('in_channels', [0, -1, 'three', 2.0])
def test_a_number_of_channels_that_is_none_is_refused(in_channels):
    with pytest.raises(MMDiscardError, match='in_channels has to be a number of channels; got'):
        attach(segmentor(), dict(in_channels=in_channels), SPREAD)


class ChannelsLast(nn.Module):
    """Puts out maps ``(N, h, w, C)``, as Swin Transformers of timm do."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x):
        return [level.permute(0, 2, 3, 1) for level in self.trunk(x)]


class ChannelsFirst(nn.Module):
    """The neck that puts it right."""

    def forward(self, levels):
        return [level.permute(0, 3, 1, 2) for level in levels]


@torch.no_grad()
@pytest.mark.parametrize('on', ['features', 'logits'])
def test_channels_last_levels_are_aligned_as_maps(on):
    first, last = (segmentor(backbone=SMALL_RESNET_4_LEVELS) for _ in range(2))
    last.load_state_dict(first.state_dict())
    last.backbone, last.neck = ChannelsLast(last.backbone).eval(), ChannelsFirst()
    align = dict(features='bilinear', logits='exact')[on]
    aggregator = dict(type='AverageAggregator', on=on, align=align)
    merged = []
    for model in (first, last):
        with attach(model, SIZE, SPREAD, aggregator) as ensemble:
            merged.append(model.encode_decode(noise(3), metas()))
            assert ensemble.geometry.strides == ((4, 4), (8, 8), (16, 16), (32, 32))
    torch.testing.assert_close(*merged)


class Resizing(nn.Module):
    """Resizes every image to 64 x 64."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x):
        return self.trunk(F.interpolate(x, (64, 64), mode='bilinear'))


@torch.no_grad()
def test_images_of_another_size_than_a_fixed_one_are_refused():
    model = segmentor(backbone=SMALL_RESNET_4_LEVELS)
    model.backbone = Resizing(model.backbone).eval()
    with attach(model, SIZE, SPREAD):
        model.encode_decode(noise(3), metas())
        with pytest.raises(MMDiscardError, match='do not grow with the image'):
            model.encode_decode(
                noise(3, 128), [dict(meta, img_shape=(128, 128)) for meta in metas()]
            )
