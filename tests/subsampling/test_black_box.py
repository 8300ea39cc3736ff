"""Subsampling that is no layer: modules displaced as a whole, and what cannot be."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmdiscard import translation_oracle
from mmdiscard.subsampling import StateHooks, map_subsampling
from mmdiscard.subsampling.discovery import OFF_TRUNK

SIZE = (96, 96)


def seeded(build):
    def built(*args) -> nn.Module:
        torch.manual_seed(0)
        return build(*args).eval()

    return built


class Blur(nn.Module):
    """Anti-aliasing: pads by reflection and subsamples by a function."""

    def forward(self, x):
        kernel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
        kernel = kernel.expand(x.shape[1], 1, 3, 3).to(x)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), 'reflect'), kernel, stride=2, groups=x.shape[1])


class Residual(nn.Module):
    """A block with a blurred main path and any shortcut."""

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), Blur()), shortcut

    def forward(self, x):
        return self.main(x) + self.shortcut(x)


class Reduction(nn.Module):
    """Two strided branches beside one that pools by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Conv2d(4, 4, 3, 2), nn.Conv2d(4, 4, 3, 2)

    def forward(self, x):
        return torch.cat([self.small(x), self.large(x), F.max_pool2d(x, 3, 2)], 1)


class Pooling(nn.Module):
    """Two convolutions that subsample, with a function between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x):
        return self.last(F.max_pool2d(self.first(x), 2))


class Patches(nn.Module):
    """Patch embedding over several paths of different kernels."""

    def __init__(self, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Conv2d(4, 4, 2 * i + 3, stride, i + 1) for i, stride in enumerate(strides)
        )

    def forward(self, x):
        paths = [path(x) for path in self.paths]
        return torch.cat([F.interpolate(p, paths[0].shape[2:]) for p in paths], 1)


def shortcut(ceil_mode: bool = True) -> nn.Module:
    return nn.AvgPool2d(2, 2, ceil_mode=ceil_mode, count_include_pad=False)


STRUCTURES = {
    'blur': (Blur, [('1',)]),
    'blurred residual': (lambda: Residual(nn.Conv2d(4, 4, 1, 2)), [('1.main.1', '1.shortcut')]),
    'averaged shortcut': (lambda: Residual(shortcut()), [('1.main.1', '1.shortcut')]),
    'reduction': (Reduction, [('1',)]),
    'nested': (lambda: nn.Sequential(nn.Sequential(Blur()), nn.ReLU()), [('1.0.0',)]),
    'twice': (lambda: nn.Sequential(Blur(), Blur()), [('1.0',), ('1.1',)]),
    'function between layers': (Pooling, [('1.first',), ('1.last',)]),
    'multi-path patches': (lambda: Patches((2, 2, 2)), [('1.paths.0', '1.paths.1', '1.paths.2')]),
}


@seeded
def backbone_of(module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), module())


@pytest.mark.parametrize('module, members', STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize('size', [SIZE, (94, 106)], ids=['even', 'odd'])
def test_structures_are_searched_and_translate(module, members, size):
    backbone = backbone_of(module)
    found = map_subsampling(backbone, size)
    assert [group.members for group in found.groups] == [('0',), *members]
    assert found.rejected == {}
    assert all(report.passed for report in translation_oracle(backbone, found.groups, (192, 192)))


def test_what_a_module_explains_is_no_longer_unseen():
    assert map_subsampling(backbone_of(STRUCTURES['twice'][0]), SIZE).unseen == ()
    found = map_subsampling(backbone_of(Pooling), SIZE)
    assert found.unseen == ((8, 8),) and found.left_out() == [
        'stride 8 is reached inside a forward, by no layer or module'
    ]


@torch.no_grad()
@pytest.mark.parametrize('name', ['blurred residual', 'reduction'])
def test_rows_of_different_indices_are_exact_inside(name):
    backbone = backbone_of(STRUCTURES[name][0])
    group = map_subsampling(backbone, SIZE).groups[-1]
    canvas = torch.randn(1, 3, 98, 98, generator=torch.Generator().manual_seed(0))
    hooks = StateHooks(backbone, [group])
    with hooks.select(torch.arange(4).view(4, 1)):
        found = backbone(canvas[..., :96, :96].expand(4, -1, -1, -1).contiguous())
    hooks.remove()
    for index in range(4):
        dy, dx = (2 * offset for offset in divmod(index, 2))
        expected = backbone(canvas[..., dy : dy + 96, dx : dx + 96].contiguous())
        inside = (..., slice(4, -4), slice(4, -4))
        torch.testing.assert_close(found[index : index + 1][inside], expected[inside])


class Adaptive(nn.Module):
    """Pools to a fixed size, whatever it is given."""

    def forward(self, x):
        return F.adaptive_avg_pool2d(x, 24)


class Positioned(nn.Module):
    """Every place has its own sign."""

    def forward(self, x):
        signs = torch.randn(x.shape[2:], generator=torch.Generator().manual_seed(0)).sign()
        return F.avg_pool2d(x * signs, 2)


@pytest.mark.parametrize('module', [Adaptive, Positioned])
def test_modules_that_do_not_translate_are_no_group(module):
    found = map_subsampling(backbone_of(module), SIZE)
    assert [group.members for group in found.groups] == [('0',)]


def test_paths_that_subsample_unlike_are_left_out():
    found = map_subsampling(backbone_of(lambda: Patches((2, 4))), SIZE)
    assert [group.members for group in found.groups] == [('0',)]
    assert found.rejected == dict.fromkeys(('1.paths.0', '1.paths.1'), OFF_TRUNK)
