"""What the hooks do to a whole backbone; single layers are in test_layers."""

import pytest
import torch
from small_models import SMALL_RESNET, SMALL_SWIN, assert_near, cls_backbone, images
from torch import nn

from mmdiscard import MMDiscardError
from mmdiscard.subsampling import StateHooks, StateSpace, SubsamplingGroup, find_subsampling


@pytest.fixture
def resnet():
    return cls_backbone(SMALL_RESNET)


@pytest.fixture
def hooks(resnet):
    return StateHooks(resnet, find_subsampling(resnet, (64, 64)))


def hook_count(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@torch.no_grad()
def test_mixed_states_equal_one_row_at_a_time(resnet, hooks):
    batch, count = images(3), len(hooks.space.groups)
    states = torch.tensor([[1, 0, 3, 2, 0], [0] * count, [3, 3, 0, 1, 2]])
    with hooks.select(states):
        (mixed,) = resnet(batch)
    for row in range(3):
        with hooks.select(states[row : row + 1]):
            (alone,) = resnet(batch[row : row + 1])
        assert_near(mixed[row : row + 1], alone)
        if row != 1:
            assert not torch.allclose(mixed[row], resnet(batch)[0][row], rtol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize('config', [SMALL_RESNET, SMALL_SWIN], ids=['ResNet', 'Swin'])
def test_nothing_changes_without_a_selection_nor_after_removal(config):
    backbone = cls_backbone(config)
    batch = images(2)
    before, keys = backbone(batch)[0], list(backbone.state_dict())
    hooks = StateHooks(backbone, find_subsampling(backbone, (64, 64)))
    assert torch.equal(backbone(batch)[0], before)
    with hooks.select(hooks.space.default(2)):
        assert torch.equal(backbone(batch)[0], before)
    with hooks.select(hooks.space.default(2) + 1):
        assert not torch.equal(backbone(batch)[0], before)
    assert torch.equal(backbone(batch)[0], before)
    hooks.remove()
    assert hook_count(backbone) == 0
    assert torch.equal(backbone(batch)[0], before)
    assert list(backbone.state_dict()) == keys


def test_a_selection_ends_with_an_exception(resnet, hooks):
    with pytest.raises(RuntimeError, match='stop'), hooks.select(hooks.space.default(1) + 1):
        raise RuntimeError('stop')
    assert hooks.offsets(0, 1) is None


@torch.no_grad()
@pytest.mark.parametrize(
    'layer',
    [nn.Conv2d(4, 4, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1)],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize('indices', [[1, 1], [1, 2]], ids=['same', 'mixed'])
def test_channels_last_is_kept(layer, indices):
    backbone = nn.Sequential(layer)
    hooks = StateHooks(backbone, [SubsamplingGroup('0', ('0',), (2, 2), (1, 1))])
    inputs = torch.randn(2, 4, 8, 8)
    with hooks.select(torch.tensor(indices).view(2, 1)):
        plain = backbone(inputs)
        output = backbone(inputs.contiguous(memory_format=torch.channels_last))
    assert plain.is_contiguous()
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, plain)


class Windows(nn.Module):
    """Cuts every image into two halves, subsamples them, and mixes images if asked to."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.mixes = mixes

    def forward(self, inputs):
        halves = inputs.unflatten(2, (2, -1)).transpose(1, 2).flatten(0, 1)
        return self.pool(halves[1:] if self.mixes else halves)


def test_windows_of_an_image_share_its_state():
    backbone = Windows(mixes=False)
    hooks = StateHooks(backbone, [SubsamplingGroup('pool', ('pool',), (2, 2), (1, 1))])
    inputs = torch.arange(2 * 8 * 4.0).view(2, 1, 8, 4)
    with hooks.select(torch.tensor([[3], [0]])):
        output = backbone(inputs)
    assert torch.equal(output[2:], backbone(inputs)[2:])
    assert output[0, 0, 0, 0] == inputs[0, 0, 2, 2]  # the window of rows and columns 1..2


def test_a_backbone_that_mixes_images_is_refused():
    backbone = Windows(mixes=True)
    hooks = StateHooks(backbone, [SubsamplingGroup('pool', ('pool',), (2, 2), (1, 1))])
    with (
        hooks.select(torch.tensor([[3], [0]])),
        pytest.raises(MMDiscardError, match="'pool' sees 3 rows for 2 images"),
    ):
        backbone(torch.randn(2, 1, 8, 4))


def test_space_is_over_the_hooked_groups(hooks):
    assert isinstance(hooks.space, StateSpace)
    assert len(hooks.space) == 4**5
