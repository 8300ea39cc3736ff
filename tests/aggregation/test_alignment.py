import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import (
    BN,
    SEGFORMER_HEAD,
    SMALL_RESNET_4_LEVELS,
    assert_near,
    images,
    seg_samples,
    segmentor,
)
from torch import nn
from torch.nn import functional as F

import mmdiscard
from mmdiscard.aggregation import BilinearAlignment, Geometry, blend, translate
from mmdiscard.registry import MODELS
from mmdiscard.subsampling import StateSpace, SubsamplingGroup


# ------------------------------------------------------------------------------- the paper's blend
def the_long_way(maps, factor, offset):
    """Upsample by the factor, shift with zeros, pool by the factor."""
    (ry, rx), (dy, dx) = factor, offset
    fine = maps.repeat_interleave(ry, 2).repeat_interleave(rx, 3)
    height, width = fine.shape[2:]
    shifted = F.pad(fine, (dx, 0, dy, 0))[..., :height, :width]
    return F.avg_pool2d(shifted, factor)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_blend_is_the_closed_form_of_shift_and_pool(ry, rx, data):
    maps = torch.randn(2, 3, 4, 5)
    rows = [(data.draw(st.integers(0, ry - 1)), data.draw(st.integers(0, rx - 1))) for _ in maps]
    fraction = torch.tensor(rows) / torch.tensor([ry, rx])
    found = blend(maps, fraction)
    for row, offset in enumerate(rows):
        expected = the_long_way(maps[row : row + 1], (ry, rx), offset)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-5, atol=1e-6)


def test_blend_by_nothing_is_the_same_map():
    maps = torch.randn(2, 3, 4, 5)
    assert blend(maps, torch.zeros(2, 2)) is maps


def test_bilinear_alignment_leaves_vectors_alone():
    groups = [SubsamplingGroup('a', (), (2, 2), (4, 4), levels=(0, 1))]
    geometry = Geometry(StateSpace(groups), [(8, 8), (0, 0)])
    maps, vectors = torch.randn(1, 3, 4, 4), torch.randn(1, 3)
    states = torch.tensor([[3]])
    moved, kept = BilinearAlignment().features((maps, vectors), states, geometry)
    assert kept is vectors
    torch.testing.assert_close(moved, the_long_way(maps, (2, 2), (1, 1)))


# ------------------------------------------------------------------------------------- translation
@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-7, 7), st.integers(-7, 7)), min_size=3, max_size=3))
def test_translate_by_brute_force_edges_replicated(moves):
    maps = torch.randn(3, 2, 4, 5)
    found = translate(maps, torch.tensor(moves))
    for row, (dy, dx) in enumerate(moves):
        y = (torch.arange(4) - dy).clamp(0, 3)
        x = (torch.arange(5) - dx).clamp(0, 4)
        assert torch.equal(found[row], maps[row][:, y][:, :, x])


def test_translate_by_nothing_is_the_same_map():
    maps = torch.randn(2, 3, 4, 5)
    assert translate(maps, torch.zeros(2, 2, dtype=torch.long)) is maps


# ---------------------------------------------------------------------------------------- geometry
def test_levels_lag_by_the_groups_they_do_not_carry():
    groups = [
        SubsamplingGroup('a', (), (2, 2), (4, 4), levels=(1, 2)),
        SubsamplingGroup('b', (), (2, 2), (8, 8), levels=(2,)),
    ]
    geometry = Geometry(StateSpace(groups), [(4, 4), (8, 8), (16, 16)])
    states = torch.tensor([[3, 1]])  # displaced by (4, 4) + (0, 8) pixels
    lags = [geometry.cells_to_meet(states, level).tolist() for level in range(3)]
    assert lags == [[[1, 3]], [[0, 1]], [[0, 0]]]
    fractions = [geometry.fraction_of_cell(states, level).tolist() for level in range(3)]
    assert fractions == [[[0, 0]], [[0.5, 0.5]], [[0.25, 0.75]]]


# ------------------------------------------------------------------------ exact, through real heads
@MODELS.register_module(force=True)
class NarrowBackbone(nn.Module):
    """Four levels of strides 4 to 32 that see so little that most of a map is far from borders."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.downs = nn.ModuleList(nn.Conv2d(8, 8, 2, 2) for _ in range(3))

    def forward(self, inputs):
        levels = [self.stem(inputs).relu()]
        for down in self.downs:
            levels.append(down(levels[-1]).relu())
        return tuple(levels)


NARROW = dict(type='mmdiscard.NarrowBackbone')
CHANNELS = dict(in_channels=[8] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=5)
PLAIN = dict(norm_cfg=BN, align_corners=False, dropout_ratio=0.0)
HEADS = {
    'SegFormer': dict(head=dict(type='SegformerHead', **CHANNELS, **PLAIN)),
    'FPN': dict(
        neck=dict(type='FPN', in_channels=[8] * 4, out_channels=8, num_outs=4),
        head=dict(type='FPNHead', feature_strides=[4, 8, 16, 32], **CHANNELS, **PLAIN),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize(
    'state', [[15, 0, 0, 0], [6, 3, 0, 2], [0, 0, 2, 1], [15, 3, 3, 3]], ids=str
)
@pytest.mark.parametrize('head', HEADS.values(), ids=HEADS)
def test_exact_alignment_is_the_default_state_of_a_moved_image_moved_back(head, state):
    model = segmentor(backbone=NARROW, **head)
    size = 512
    settings = dict(subsampling=dict(groups='all'), search=dict(type='FixedStates', states=[state]))
    with mmdiscard.attach(model, **settings) as ensemble:
        groups = ensemble.groups
        dy, dx = StateSpace(groups).displacement(torch.tensor([state]))[0].tolist()
        canvas = images(1, (size + dy, size + dx))
        found = ensemble.predict(canvas[..., :size, :size])
    metas = [sample.metainfo for sample in seg_samples(1, (size, size))]
    here = model.encode_decode(canvas[..., :size, :size], metas)
    there = model.encode_decode(canvas[..., dy:, dx:], metas)
    inside = (
        ...,
        slice(224, -160),
        slice(224, -160),
    )  # a few of the deepest cells from the borders
    expected = F.pad(there, (dx, 0, dy, 0))[..., :size, :size]
    assert (found - here)[inside].abs().max() > 0.01 * here.abs().max()
    assert_near(found[inside], expected[inside])


@torch.no_grad()
def test_exact_alignment_of_a_real_backbone_follows_the_image():
    head = SEGFORMER_HEAD | dict(in_channels=[4, 8, 16, 32])
    model = segmentor(backbone=SMALL_RESNET_4_LEVELS, head=head)
    size, states = 256, [[0, 0, 0, 2], [0, 1, 2, 0], [3, 2, 0, 0]]
    for state in states:
        search = dict(type='FixedStates', states=[state])
        with mmdiscard.attach(model, dict(groups=[0, 1, 2, 3]), search) as ensemble:
            displacement = StateSpace(ensemble.groups).displacement(torch.tensor([state]))
            dy, dx = displacement[0].tolist()
            canvas = images(1, (size + dy, size + dx))
            image, moved = canvas[..., :size, :size], canvas[..., dy:, dx:].contiguous()
            found = ensemble.predict(image)
            unaligned = ensemble.evaluate(image, torch.tensor([state])).logits[:, 0]
        metas = [sample.metainfo for sample in seg_samples(1, (size, size))]
        expected = F.pad(model.encode_decode(moved, metas), (dx, 0, dy, 0))[..., :size, :size]
        inside = (..., slice(96, -96), slice(96, -96))
        error = (found - expected)[inside].abs().mean()
        assert error < 0.5 * (unaligned - expected)[inside].abs().mean()


def test_fractions_stay_below_one_when_groups_between_are_skipped():
    groups = [
        SubsamplingGroup('first', ('a',), (2, 2), (1, 1), (0,)),
        SubsamplingGroup('third', ('c',), (2, 2), (4, 4), (0,)),
    ]
    geometry = Geometry(StateSpace(groups), [(8, 8)])
    fraction = geometry.fraction_of_cell(torch.tensor([[3, 3], [0, 3], [3, 0]]), 0)
    assert fraction.tolist() == [[5 / 8, 5 / 8], [4 / 8, 4 / 8], [1 / 8, 1 / 8]]
