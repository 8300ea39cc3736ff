"""The cost model counts what runs, and its bound counts every prefix once."""

from itertools import product

import pytest
import torch
from small_models import SMALL_RESNET, cls_backbone
from torch import nn

from mmdiscard.execution import CostModel, measure_cost
from mmdiscard.subsampling import map_subsampling


def test_a_hand_counted_network():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),  # 8 x 8 x 4 x 27 = 6912
        nn.Conv2d(4, 8, 2, stride=2, bias=False),  # 4 x 4 x 8 x 16 = 2048
        nn.Conv2d(8, 8, 1, bias=False),  # 4 x 4 x 8 x 8 = 1024
    )
    found = map_subsampling(net, (8, 8))
    head = nn.Conv2d(8, 2, 1, bias=False)  # 4 x 4 x 2 x 8 = 256
    cost = measure_cost(found, found.groups, lambda: head(torch.ones(found.shapes[0])))
    total = 6912 + 2048 + 1024 + 256
    assert cost.macs == total
    assert cost.segments == (6912, 3072, 256)
    assert cost.before == pytest.approx([6912 / total])
    assert cost.backbone == pytest.approx(1 - 256 / total)
    assert cost.after(0) == pytest.approx(3072 / total)


def test_the_bound_by_hand():
    cost = CostModel(before=(0.5, 0.7), backbone=0.9, macs=1)
    prices = cost.prices()
    assert prices.root == pytest.approx(1) == prices.of([(0, 0)])
    assert prices.branch(1) == pytest.approx(0.3)
    assert prices.of([(0, 0), (0, 1)]) == pytest.approx(0.7 + 2 * 0.2 + 2 * 0.1)
    assert prices.of([(0, 0), (1, 0)]) == pytest.approx(0.5 + 2 * 0.2 + 2 * 0.2 + 2 * 0.1)
    once = cost.prices(head_per_state=False, head_after=True)
    assert once.of([(0, 0), (1, 0)]) == pytest.approx(0.5 + 2 * 0.2 + 2 * 0.2 + 0.1)


def test_all_states_of_a_real_backbone():
    backbone = cls_backbone(SMALL_RESNET)
    found = map_subsampling(backbone, (64, 64))
    cost = measure_cost(found, found.groups[-2:])
    states = list(product(range(4), repeat=2))
    first, second = cost.before
    assert 0 < first < second < cost.backbone == 1
    assert cost.prices().of(states) == pytest.approx(
        first + 4 * (second - first) + 16 * (1 - second)
    )
