"""Backbones with their hooks, made once for all tests of executors."""

from dataclasses import dataclass
from typing import Any

import pytest
from small_models import (
    SHUFFLENET,
    SMALL_MIT,
    SMALL_RESNET,
    SMALL_SWIN,
    cls_backbone,
    seg_backbone,
)

from mmdiscard.subsampling import StateHooks, SubsamplingMap, map_subsampling
from mmdiscard.subsampling.backbone import as_levels

BACKBONES = {
    'ResNet': (cls_backbone, SMALL_RESNET),
    'Swin': (cls_backbone, SMALL_SWIN),
    'MiT': (seg_backbone, SMALL_MIT),
    'ShuffleNet': (cls_backbone, SHUFFLENET),
}


@dataclass(frozen=True)
class HookedBackbone:
    """What executors are made of."""

    forward: Any
    hooks: StateHooks
    found: SubsamplingMap


@pytest.fixture(scope='session', params=BACKBONES.values(), ids=BACKBONES)
def hooked(request):
    build, config = request.param
    backbone = build(config)
    found = map_subsampling(backbone, (64, 64))
    hooks = StateHooks(backbone, found.groups)
    yield HookedBackbone(lambda inputs: as_levels(backbone(inputs)), hooks, found)
    hooks.remove()
