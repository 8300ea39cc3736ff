"""Backbones may return anything that holds tensors; what comes after them gets it in that form."""

import pytest
import torch
from torch import nn

from mmdiscard import MMDiscardError, find_subsampling, translation_oracle
from mmdiscard.subsampling.backbone import as_levels, blank_image, with_levels, without_tensors

A, B = torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
FORMS = {
    'tensor': (A, 1),
    'list': ([A, B], 2),
    'None in it': ((None, A), 1),
    'dict': (dict(low=A, high=B), 2),
    'class token': (((A, B[..., 0, 0]),), 2),
    'number in it': (dict(out=(A,), aux=[None, 3]), 1),
}


@pytest.mark.parametrize('output, count', FORMS.values(), ids=FORMS)
def test_levels_go_out_and_in_again(output, count):
    levels = as_levels(output)
    assert len(levels) == count and all(isinstance(level, torch.Tensor) for level in levels)
    form = without_tensors(output)
    again = with_levels(form, [level + 1 for level in levels])
    assert type(again) is type(output)
    assert all(torch.equal(x, y + 1) for x, y in zip(as_levels(again), levels, strict=True))


@pytest.mark.parametrize('output', [None, (), dict(loss=3.0)], ids=str)
def test_an_output_without_a_tensor_is_an_error(output):
    with pytest.raises(MMDiscardError, match='without a tensor'):
        as_levels(output)


def test_images_have_the_channels_that_the_backbone_takes():
    layers = [nn.Conv2d(5, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1)]
    backbone = nn.Sequential(*layers)
    assert blank_image(backbone, (8, 6)).shape == (1, 5, 8, 6)
    assert blank_image(nn.Sequential(layers[2], nn.Conv2d(3, 4, 1)), (8, 6)).shape[1] == 3
    groups = find_subsampling(backbone, (32, 32))
    assert [group.name for group in groups] == ['0', '2']
    assert all(report.passed for report in translation_oracle(backbone, groups, (64, 64)))


class Prepares(nn.Module):
    """Caches in evaluation mode what its forward then reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, 2)

    def train(self, mode: bool = True) -> None:
        super().train(mode)
        if not mode:
            self.cached = 2.0

    def forward(self, x):
        return self.conv(x) * (1.0 if self.training else self.cached)


def test_backbones_that_prepare_for_evaluation():
    backbone = Prepares()
    backbone.conv.training = False
    assert [group.name for group in find_subsampling(backbone, (16, 16))] == ['conv']
    assert backbone.training and not backbone.conv.training
