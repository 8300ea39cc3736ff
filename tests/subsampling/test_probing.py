"""Backbones that could mislead or crash discovery: right groups, or one line that says why not."""

import pytest
import timm
import torch
from small_models import SMALL_RESNET_4_LEVELS, assert_near, seg_backbone
from torch import nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from mmdiscard import MMDiscardError, find_subsampling, translation_oracle
from mmdiscard.subsampling import CheckedSizes, StateHooks, map_subsampling
from mmdiscard.subsampling.backbone import as_levels

SIZE = (96, 96)


def conv(channels: int, out: int, stride: int = 2, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2, **options)


class Block(nn.Module):
    """A residual block of stride 2, whose shortcut alone reaches the output in a naive look."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut = main, conv(4, 4, kernel=1)

    def forward(self, x):
        return self.main(x) + self.shortcut(x)


class Cleaned(nn.Module):
    """A convolution of finite values, whatever it is given."""

    def __init__(self, clean) -> None:
        super().__init__()
        self.clean, self.conv = clean, conv(4, 4)

    def forward(self, x):
        return self.conv(self.clean(x))


class Finite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(4, 4)

    def forward(self, x):
        assert x.isfinite().all()
        return self.conv(x)


class Deformable(nn.Module):
    """A deformable convolution of stride 2 with its offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.conv = conv(4, 18), DeformConv2d(4, 4, 3, 2, 1)

    def forward(self, x):
        return self.conv(x, self.offset(x))


class Unseen(nn.Module):
    """A convolution outside of PyTorch's dispatcher, as extensions of other packages are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x):
        seen = F.conv2d(torch.from_numpy(x.numpy().copy()), self.weight, stride=2, padding=1)
        return torch.from_numpy(seen.numpy().copy())


class UnseenInBlock(nn.Module):
    """A residual block in which something happens outside of PyTorch, beside the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.shortcut = conv(4, 4), conv(4, 4, kernel=1)

    def forward(self, x):
        return torch.from_numpy(self.main(x).numpy().copy()) + self.shortcut(x)


class Gated(nn.Module):
    """A branch that is cut off from gradients weighs the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(4, 4)

    def forward(self, x):
        return self.conv(x) * x.detach().mean((2, 3), keepdim=True).sigmoid()


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(4, 4)

    def forward(self, x):
        return self.conv(input=x)


class Scaled(nn.Module):
    """Divides by a number that it reads off the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(4, 4)

    def forward(self, x):
        return self.conv(x / (1 + x.abs().mean().item()))


class Haar(nn.Module):
    """A wavelet transform by slicing."""

    def forward(self, x):
        a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1)


class Coordinates(nn.Module):
    """CoordConv: the position is two more channels."""

    def forward(self, x):
        rows, columns = (torch.linspace(-1, 1, side).to(x) for side in x.shape[2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing='ij'))
        return torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1)


class Depth(nn.Module):
    """RGB and depth in branches of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth, self.last = conv(3, 4), conv(1, 4), conv(4, 4)

    def forward(self, x):
        return self.last(self.rgb(x[:, :3]) + self.depth(x[:, 3:]))


class Rotary(nn.Module):
    """Position codes made in the shape of the image, for use far behind the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.codes = conv(3, 4), conv(4, 4), Codes()

    def forward(self, x):
        codes = self.codes(x)
        return self.last(self.stem(x)) + codes


class ToNumpy(nn.Module):
    """Computes its result outside of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 4), conv(4, 4)

    def forward(self, x):
        return torch.from_numpy(self.last(self.first(x)).numpy() + 1)


class Codes(nn.Module):
    def forward(self, x):
        height, width = (side // 4 for side in x.shape[2:])
        return torch.arange(height * width).view(1, 1, height, width).to(x) / (height * width)


def trunk(block: nn.Module) -> nn.Module:
    return nn.Sequential(conv(3, 4), nn.ReLU(), block, conv(4, 4))


BLOCK = [('0',), ('2.main.conv', '2.shortcut'), ('3',)]
RIGHT = {
    'cleans NaN': (lambda: trunk(Block(Cleaned(torch.nan_to_num))), BLOCK),
    'replaces what is not finite': (
        lambda: trunk(Block(Cleaned(lambda x: torch.where(x.isfinite(), x, 0.0)))),
        BLOCK,
    ),
    'asserts finite values': (lambda: trunk(Block(Finite())), BLOCK),
    'deformable': (lambda: trunk(Deformable()), [('0',), ('2',), ('3',)]),
    'deformable in a block': (
        lambda: trunk(Block(Deformable())),
        [('0',), ('2.main', '2.shortcut'), ('3',)],
    ),
    'extension in a block': (
        lambda: trunk(Block(Unseen())),
        [('0',), ('2.main', '2.shortcut'), ('3',)],
    ),
    'extension as a function': (
        lambda: trunk(UnseenInBlock()),
        [('0',), ('2.main', '2.shortcut'), ('3',)],
    ),
    'gate without gradients': (lambda: trunk(Gated()), [('0',), ('2',), ('3',)]),
    'called by keyword': (lambda: trunk(Block(ByKeyword())), BLOCK),
    'scaled by a number': (lambda: trunk(Block(Scaled())), BLOCK),
    'six bands': (
        lambda: nn.Sequential(conv(6, 3, 1, 1), conv(3, 4), conv(4, 4)),
        [('1',), ('2',)],
    ),
    'RGB and depth': (Depth, [('rgb', 'depth'), ('last',)]),
    'space to depth': (
        lambda: nn.Sequential(nn.PixelUnshuffle(2), conv(12, 4, 1), conv(4, 4)),
        [('0',), ('2',)],
    ),
    'wavelets': (lambda: nn.Sequential(Haar(), conv(12, 4, 1), conv(4, 4)), [('0',), ('2',)]),
    'coordinates': (lambda: nn.Sequential(Coordinates(), conv(5, 4), conv(4, 4)), [('1',), ('2',)]),
    'position codes of the image': (Rotary, [('stem',), ('last',)]),
    'padding of its own': (
        lambda: nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2), nn.ReflectionPad2d(1), conv(4, 4)
        ),
        [('1',), ('3',)],
    ),
    'statistics of the batch': (
        lambda: nn.Sequential(conv(3, 4), nn.BatchNorm2d(4, track_running_stats=False), conv(4, 4)),
        [('0',), ('2',)],
    ),
    'one channel': (lambda: nn.Sequential(conv(1, 4), conv(4, 4)), [('0',), ('1',)]),
    'ends outside of PyTorch': (ToNumpy, [('first',), ('last',)]),
    'scripted': (
        lambda: nn.Sequential(conv(3, 4), torch.jit.script(conv(4, 4)), conv(4, 4)),
        [('0',), ('2',)],
    ),
}


def built(build) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


@pytest.mark.parametrize('build, members', RIGHT.values(), ids=RIGHT)
def test_groups_are_right(build, members):
    backbone = built(build)
    groups = find_subsampling(backbone, SIZE)
    assert [group.members for group in groups] == members
    assert all(report.passed for report in translation_oracle(backbone, groups, (192, 192)))


class Partial(nn.Conv2d):
    """A partial convolution: of valid pixels alone, with the validity of what it puts out."""

    def forward(self, x, valid):
        count = F.max_pool2d(valid, self.kernel_size, self.stride, self.padding)
        return super().forward(x * valid), count


class Holes(nn.Module):
    """Two partial convolutions in a row; pixels below a threshold are no data."""

    def __init__(self, threshold: float = -1.0) -> None:
        super().__init__()
        self.first = Partial(3, 4, 3, 2, 1)
        self.last = Partial(4, 4, 3, 2, 1)
        self.threshold = threshold

    def forward(self, x):
        x, valid = self.first(x, (x.mean(1, keepdim=True) > self.threshold).to(x))
        return self.last(x, valid=valid)[0]


@torch.no_grad()
def test_masks_beside_maps_are_displaced_too():
    backbone = built(Holes)
    groups = find_subsampling(backbone, SIZE)
    assert [group.members for group in groups] == [('first',), ('last',)]
    assert all(report.passed for report in translation_oracle(backbone, groups, (192, 192)))
    hooks = StateHooks(backbone, groups)
    canvas = torch.randn(1, 3, 99, 99, generator=torch.Generator().manual_seed(0))
    states = torch.tensor([[0, 0], [3, 0], [1, 2], [2, 3]])
    with hooks.select(states):
        found = backbone(canvas[..., :96, :96].expand(4, -1, -1, -1).contiguous())
    hooks.remove()
    for row, displacement in enumerate(hooks.space.displacement(states).tolist()):
        dy, dx = displacement
        expected = backbone(canvas[..., dy : dy + 96, dx : dx + 96].contiguous())
        inside = (..., slice(2, -2), slice(2, -2))
        assert_near(found[row : row + 1][inside], expected[inside])


class Guided(nn.Module):
    """A deformable convolution whose offsets come from the block around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.offset, self.conv = conv(3, 4), conv(4, 18), SubclassOfConv(4, 4, 3, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.conv(x, self.offset(x))


class SubclassOfConv(nn.Conv2d):
    def forward(self, x, offset):
        return super().forward(x) + offset[:, :4]


def test_layers_with_maps_of_several_sizes_are_left_out_with_the_reason():
    found = map_subsampling(built(Guided), SIZE)
    assert [group.members for group in found.groups] == [('stem',)]
    assert found.rejected['conv'] == 'it receives or returns maps of several sizes'


class WithLoss(nn.Module):
    """Returns a loss, a count and a dict beside its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 4), conv(4, 4)

    def forward(self, x):
        first = self.first(x)
        last = self.last(first)
        return dict(maps=[first, last], loss=last.square().mean(), count=torch.ones(len(x)))


def test_losses_and_counts_beside_maps_are_no_levels():
    backbone = built(WithLoss)
    found = map_subsampling(backbone, SIZE)
    assert found.strides == ((2, 2), (4, 4))
    assert [group.levels for group in found.groups] == [(0, 1), (1,)]
    assert all(report.passed for report in translation_oracle(backbone, found.groups, SIZE))


class Pyramid(nn.Module):
    """A feature pyramid inside the backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.second, self.third = conv(3, 4), conv(4, 4), conv(4, 4)

    def forward(self, x):
        stem = self.stem(x)
        second = self.second(stem)
        third = self.third(second)
        return second + F.interpolate(third, scale_factor=2), third


def test_a_pyramid_in_the_backbone_leaves_what_is_in_front_of_it():
    backbone = built(Pyramid)
    found = map_subsampling(backbone, SIZE)
    assert [group.members for group in found.groups] == [('stem',), ('second',)]
    assert found.rejected['third'].startswith('output level 0 joins')
    assert all(report.passed for report in translation_oracle(backbone, found.groups, SIZE))


def test_a_layer_whose_output_a_hook_keeps_is_no_cut():
    class Hooked(nn.Module):
        """Takes a skip by a forward hook."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.down, self.last = conv(3, 4), conv(4, 4), conv(4, 4, 1)
            self.down.register_forward_hook(self.keep)

        def keep(self, module, args, output):
            self.kept = output

        def forward(self, x):
            return self.last(self.down(self.first(x)).relu()) + self.kept

    found = map_subsampling(built(Hooked), SIZE)
    assert [group.members for group in found.groups] == [('first',)]
    assert found.rejected['down'].startswith('not on the trunk')


def test_a_real_model_with_space_to_depth():
    backbone = timm.create_model('tresnet_m').eval()
    groups = find_subsampling(backbone, (128, 128))
    assert groups[0].factor == (4, 4) and [g.stride[0] for g in groups] == [1, 4, 8, 16]


def test_a_real_segmentor_backbone_that_cleans_its_images():
    backbone = seg_backbone(SMALL_RESNET_4_LEVELS)
    expected = find_subsampling(backbone, (64, 64))
    forward = backbone.forward
    backbone.forward = lambda x: forward(torch.nan_to_num(x))
    assert find_subsampling(backbone, (64, 64)) == expected and len(expected) == 5


class Resizing(nn.Module):
    """Resizes every image to one size first, as wrappers of large pretrained models do."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side, self.trunk = side, nn.Sequential(conv(3, 4), conv(4, 4))

    def forward(self, x):
        return self.trunk(F.interpolate(x, (self.side, self.side), mode='bilinear'))


class Pooling(nn.Module):
    """Pools to a fixed grid at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(3, 4), conv(4, 4))

    def forward(self, x):
        return F.adaptive_avg_pool2d(self.trunk(x), 12)


@torch.no_grad()
@pytest.mark.parametrize(
    'build, side', [(lambda: Resizing(192), 192), (lambda: Resizing(96), 192), (Pooling, 192)]
)
def test_maps_of_fixed_size_are_refused_at_other_sizes(build, side):
    backbone = built(build)
    found = map_subsampling(backbone, (side, side))
    assert found.fixed
    checked = CheckedSizes(lambda images: as_levels(backbone(images)), found)
    checked(torch.randn(1, 3, side, side))
    with pytest.raises(
        MMDiscardError, match=r'level 0 .*288x288.*192x192.*`input_size`=\(288, 288'
    ):
        checked(torch.randn(1, 3, 288, 288))


@torch.no_grad()
def test_sizes_are_checked_once_and_right_ones_pass():
    backbone = seg_backbone(SMALL_RESNET_4_LEVELS)
    found = map_subsampling(backbone, (64, 64))
    calls = []
    checked = CheckedSizes(lambda images: calls.append(1) or as_levels(backbone(images)), found)
    for size in ((64, 64), (95, 130), (33, 64), (224, 225), (95, 130)):
        checked(torch.randn(1, 3, *size))
    assert not found.fixed and len(calls) == 5


class Clips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3, 2, 1)

    def forward(self, clips):
        batch, channels, time, height, width = clips.shape
        return self.conv(clips).mean(2)


class FromNumpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x):
        return self.conv(torch.from_numpy(x.numpy() + 1))


REFUSED = {
    'clips': (Clips, None, r'seems to take clips'),
    'resized by no whole factor': (
        lambda: Resizing(112),
        None,
        r'which is no whole factor; resize',
    ),
    'too few channels given': (
        lambda: nn.Sequential(conv(6, 3, 1, 1), conv(3, 4)),
        3,
        r'with 3 channels: .*set `in_channels`=6, with which it runs$',
    ),
    'a size that it does not take': (
        lambda: nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(4 * 112 * 112, 8)),
        None,
        r'at input size \(96, 96\) .*set `input_size` .*such as \(224, 224\)$',
    ),
    'neither helps': (
        lambda: nn.Sequential(conv(3, 4), nn.Linear(777, 8)),
        None,
        r'set `input_size` to a size that it accepts, or `in_channels`',
    ),
    'begins outside of PyTorch': (
        FromNumpy,
        None,
        r'^output level 0 of FromNumpy .*outside of PyTorch',
    ),
    'nothing but a loss': (
        lambda: nn.Sequential(conv(3, 4), Mean()),
        None,
        r'without a tensor of features',
    ),
}


class Mean(nn.Module):
    def forward(self, x):
        return x.mean()


@pytest.mark.parametrize('build, in_channels, words', REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_traced_is_refused_in_one_line(build, in_channels, words):
    with pytest.raises(MMDiscardError, match=words) as caught:
        find_subsampling(built(build), SIZE, in_channels)
    assert len(str(caught.value).splitlines()) == 1
