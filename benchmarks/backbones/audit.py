"""One backbone through everything that has to work: discovery, the oracle, a search."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import set_random_seed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.backbones.results import (
    ABSENT,
    NOTHING,
    PARTLY,
    REFUSED,
    SEARCHED,
    BackboneRecord,
    GroupRecord,
)
from mmdiscard.errors import MMDiscardError
from mmdiscard.models import attach, searched_module
from mmdiscard.subsampling import SubsamplingMap, map_subsampling, translation_oracle
from mmdiscard.subsampling.backbone import as_levels, blank_image, inference_mode

SEARCH = dict(type='GreedySearch', budget=4)
CLASSES = 4
FAILS = 'a group that is marked does not obey the translation law at this size'


def audit(
    package: str,
    name: str,
    backbone: Mapping[str, Any],
    size: int,
    deploy: bool = False,
) -> BackboneRecord:
    """What works for one backbone; an error becomes the record's remark, in one line.

    Args:
        package: ``'mmseg'`` for a segmentor with a decode head on the last level, ``'mmpretrain'``
            for a classifier, ``'timm'`` for a whole model in MMPretrain's `TimmClassifier`.
        name: what to call it in the record.
        backbone: its config; of the whole classifier for ``'timm'``.
        size: side of the square image.
        deploy: fuse the branches of a backbone that can be.
    """
    set_random_seed(0)
    with DefaultScope.overwrite_default_scope(_home(package)):
        return _audit(package, name, backbone, size, deploy)


def _audit(
    package: str, name: str, backbone: Mapping[str, Any], size: int, deploy: bool
) -> BackboneRecord:
    try:
        built = _build(package, backbone, size, deploy)
        levels = _levels(built, size)
    except Exception as error:  # whatever a backbone of others raises
        return BackboneRecord(package, name, ABSENT, remark=_one_line(error))
    groups: tuple[GroupRecord, ...] = ()
    remarks: list[str] = []
    try:
        found = map_subsampling(built, (size, size))
        remarks += found.left_out(shown=1)
        groups = _examine(found, built, size)
        if not all(group.passed for group in groups):
            # No weights make a group translate that is not on the trunk, so one success is enough.
            other = _build(package, backbone, size, deploy, settled=False)
            groups = tuple(map(_better, groups, _examine(found, other, size)))
        passed = [group.name for group in groups if group.passed]
        remarks += [FAILS] if len(passed) < len(groups) else []
        if not passed:
            result = REFUSED if groups or remarks else NOTHING
            return BackboneRecord(package, name, result, groups, remark='; '.join(remarks))
        cost = _search(package, built, backbone, levels[-1], passed, size)
    except Exception as error:
        remarks.append(_one_line(error))
        return BackboneRecord(package, name, REFUSED, groups, remark='; '.join(remarks))
    result = SEARCHED if len(passed) == len(groups) else PARTLY
    return BackboneRecord(package, name, result, groups, cost, '; '.join(remarks))


def registered(package: str) -> list[str]:
    """Names of all backbones in the registry of ``'mmpretrain'`` or ``'mmseg'``."""
    home = f'{package}.models.backbones.'
    modules = _registry(package).module_dict
    return [name for name, module in modules.items() if module.__module__.startswith(home)]


def _home(package: str) -> str:
    return package if package == 'mmseg' else 'mmpretrain'


def _registry(package: str) -> Registry:
    import_module(f'{_home(package)}.models')  # registers
    return import_module(f'{_home(package)}.registry').MODELS


def _build(
    package: str, config: Mapping[str, Any], size: int, deploy: bool, settled: bool = True
) -> nn.Module:
    """A backbone with random weights, as its own class draws them or `_settle`."""
    backbone = searched_module(_registry(package).build(dict(config)))
    backbone.eval()
    if settled:
        _settle(backbone, size)
    if deploy:
        backbone.switch_to_deploy()
    return backbone


def model_around(
    package: str, config: Mapping[str, Any], size: int, deploy: bool = False
) -> nn.Module:
    """A model with an audited backbone of random weights; arguments as for `audit`."""
    set_random_seed(0)
    with DefaultScope.overwrite_default_scope(_home(package)):
        backbone = _build(package, config, size, deploy)
        return HOSTS[package](config, backbone, _levels(backbone, size)[-1]).eval()


def _levels(backbone: nn.Module, size: int) -> tuple[Tensor, ...]:
    with inference_mode(backbone):
        return as_levels(backbone(blank_image(backbone, (size, size))))


def _settle(backbone: nn.Module, size: int) -> None:
    """Random weights fit for the oracle, which looks at the centre of the deepest map.

    Kernels fall off from their middle, or the borders of the image would reach that centre; what
    they select stays. Batch statistics are those of noise, or signals would die out or burst.
    """
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d) and all(side % 2 for side in layer.kernel_size):
            layer.weight.data *= _falling_off(layer.kernel_size)
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        norm.training, norm.momentum = True, 1.0
    with torch.no_grad():
        backbone(torch.randn_like(blank_image(backbone, (size, size)).expand(4, -1, -1, -1)))
    for norm in norms:
        norm.training = False


def _falling_off(sides: tuple[int, int]) -> Tensor:
    """A narrow bell ``(kh, kw)``: 1 in the middle, 0.14 beside it."""
    rows, columns = (torch.exp(-2 * (torch.arange(n) - n // 2).float() ** 2) for n in sides)
    return torch.outer(rows, columns)


def _search(
    package: str,
    backbone: nn.Module,
    config: Mapping[str, Any],
    last: Tensor,
    groups: list[str],
    size: int,
) -> float:
    """Cost of a search over the groups that pass, all but the first and last if enough are left."""
    model = HOSTS[package](config, backbone, last)
    model.eval()
    subsampling = dict(groups=groups[1:-1] or groups, input_size=size)
    image = torch.randn_like(blank_image(backbone, (size, size)))
    with inference_mode(model), attach(model, subsampling, SEARCH) as ensemble:
        logits = ensemble.predict(image)
    if not logits.isfinite().all():
        raise MMDiscardError('the merged logits are not finite')
    return ensemble.last.cost


class _Last(nn.Module):
    """The last level, in whatever form the backbone returns it."""

    def forward(self, output: Any) -> tuple[Tensor]:
        return as_levels(output)[-1:]


class _Pool(nn.Module):
    """The last level, whether map, tokens ``(N, L, C)`` or vector, as ``(N, C)``."""

    def forward(self, output: Any) -> tuple[Tensor]:
        last = as_levels(output)[-1]
        return (last.mean({4: (2, 3), 3: (1,)}[last.ndim]) if last.ndim > 2 else last,)


def _classifier(config: Mapping[str, Any], backbone: nn.Module, last: Tensor) -> nn.Module:
    """MMPretrain's classifier around ``backbone``, which puts out ``last`` as its last level."""
    channels = last.shape[-1 if last.ndim == 3 else 1]
    model = _registry('mmpretrain').build(
        dict(
            type='ImageClassifier',
            backbone=dict(config),
            head=dict(type='LinearClsHead', in_channels=channels, num_classes=CLASSES),
        )
    )
    model.backbone, model.neck = backbone, _Pool()
    return model


def _segmentor(config: Mapping[str, Any], backbone: nn.Module, last: Tensor) -> nn.Module:
    """MMSegmentation's segmentor likewise."""
    fcn = dict(type='FCNHead', in_channels=last.shape[1], in_index=-1, channels=8, num_convs=1)
    fcn |= dict(num_classes=CLASSES, concat_input=False, align_corners=False)
    model = _registry('mmseg').build(
        ConfigDict(
            type='EncoderDecoder',
            backbone=dict(config),
            decode_head=fcn,
            test_cfg=dict(mode='whole'),
        )
    )
    model.backbone, model.neck = backbone, _Last()
    return model


def _whole(config: Mapping[str, Any], backbone: nn.Module, last: Tensor) -> nn.Module:
    """The classifier that ``config`` describes already, with the weights of ``backbone``."""
    model = _registry('mmpretrain').build(dict(config))
    model.model = backbone.model
    return model


HOSTS = {'mmpretrain': _classifier, 'mmseg': _segmentor, 'timm': _whole}


def _examine(found: SubsamplingMap, backbone: nn.Module, size: int) -> tuple[GroupRecord, ...]:
    """Results of the translation oracle, one for each group."""
    reports = translation_oracle(backbone, found.groups, (size, size))
    return tuple(
        GroupRecord(group.name, group.stride, group.factor, report.ratio, report.passed)
        for group, report in zip(found.groups, reports, strict=True)
    )


def _better(one: GroupRecord, other: GroupRecord) -> GroupRecord:
    return min(one, other, key=lambda group: group.ratio)


def _one_line(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:160]}{"..." if len(text) > 160 else ""}'
