"""Models inside other objects, and models that were compiled."""

from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModel, is_model_wrapper
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..errors import MMDiscardError
from ..registry import ADAPTERS
from .method_patch import MethodPatch

COMPILED_METHODS = ('forward', 'predict', 'test_step', 'val_step')  # see `compile` of MM's Runner


def unwrap(model: Any) -> nn.Module:
    """The first model with an adapter inside inferencers, TTA models and distributed wrappers.

    Raises:
        MMDiscardError: if there is none, or if it is inside a wrapper that does not call its
            `predict`.
    """
    for outer in wrappers_of(model):
        model = _wrapped(outer)
    return model


def wrappers_of(model: Any) -> Iterator[Any]:
    """The wrappers around the model that `unwrap` finds, outermost first."""
    while adapter_class(model) is None:
        yield model
        model = _wrapped(model)


def _wrapped(outer: Any) -> Any:
    """The object inside a wrapper that has the methods of MM models."""
    name = type(outer).__name__
    if hasattr(outer, '_orig_mod'):
        raise MMDiscardError(
            'this model was compiled by torch.compile, and compiled code cannot be searched; '
            'attach to the model as it was before (`compiled._orig_mod`) and predict with that'
        )
    if not isinstance(outer, nn.Module):
        inner = getattr(outer, 'model', None)
    elif isinstance(outer, BaseModel | AveragedModel) or is_model_wrapper(outer):
        inner = getattr(outer, 'module', getattr(outer, 'model', None))
    else:
        inner = None
    if inner is not None:
        return inner
    held = getattr(outer, 'module', getattr(outer, 'model', None))
    if held is not None and adapter_class(held) is not None:
        raise MMDiscardError(
            f'{name} calls its model as `model(images)`, which mmdiscard leaves as it is; attach '
            'to the model inside it and call its `predict` or `test_step`, or use a TTA model of MM'
        )
    raise MMDiscardError(
        f'{name} is not supported; mmdiscard attaches to '
        f'{", ".join(sorted(ADAPTERS.module_dict))} and their subclasses, bare or inside an '
        'inferencer, a TTA model or a distributed wrapper (register an adapter in '
        '`mmdiscard.registry.ADAPTERS` for others)'
    )


def normalised_channels(model: Any) -> int | None:
    """Number of channels that the data preprocessor normalises; None if unknown."""
    try:
        mean = getattr(unwrap(model).data_preprocessor, 'mean', None)
    except (MMDiscardError, AttributeError):  # a bare backbone, a model without one
        return None
    # A single mean is for grey images, or for all channels alike.
    return mean.numel() if isinstance(mean, Tensor) and mean.numel() > 1 else None


def searched_module(model: Any) -> nn.Module:
    """The module that is searched: the backbone of a model, or a bare backbone itself."""
    try:
        model = unwrap(model)
    except MMDiscardError:
        return model
    return adapter_class(model).backbone_of(model)


def adapter_class(model: Any) -> type | None:
    """The adapter that serves models of this class; None if there is none."""
    known = ADAPTERS.module_dict
    names = (cls.__name__ for cls in type(model).__mro__)
    return next((known[name] for name in names if name in known), None)


def run_eagerly(model: nn.Module, patches: list[MethodPatch]) -> None:
    """Let compiled parts of a model run eagerly, as compiled code does not see new hooks.

    ``patches`` gets what has to be removed to undo it.
    """
    before = len(patches)
    for module in list(model.modules()):
        if hasattr(module, '_orig_mod'):
            patches.append(MethodPatch(module, 'forward', module._orig_mod))
        if getattr(module, '_compiled_call_impl', None) is not None:
            patches.append(MethodPatch(module, '_compiled_call_impl', module._call_impl))
    for name in COMPILED_METHODS:
        eager = getattr(vars(model).get(name), '_torchdynamo_orig_callable', None)
        if eager is not None:
            patches.append(MethodPatch(model, name, eager))
    if len(patches) > before:
        print_log(
            'mmdiscard: compiled parts of the model run eagerly while it is attached', 'current'
        )
