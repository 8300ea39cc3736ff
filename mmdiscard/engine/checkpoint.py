"""Refusing files that are no checkpoints, and checkpoints that do not belong to the model."""

import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import Tensor, nn

from ..errors import MMDiscardError
from ..models import adapter_class, unwrap

#: how many names a message lists
SHOWN = 3
#: buffers that training changes, besides those of normalization layers: the bases of EMANet
LEARNED_BUFFERS = ('running_', 'bases')
#: PyTorch's messages on a tensor that could not be copied, and the shapes in them
MISFIT = re.compile(r'(?:size mismatch for|While copying the parameter named) "?([^\s":]+)')
SHAPES = re.compile(r'torch\.Size\(\[(.*?)\]\)')


def is_local(path: str) -> bool:
    """Whether ``path`` is a plain file path, not a URL nor one of MMEngine's ``open-mmlab://``."""
    return re.match(r'\w[\w+.-]*:(//|s3:)', path) is None


def check_checkpoint_file(path: str) -> None:
    """Check that ``path`` is there and is a file that ``torch.save`` wrote, without loading it.

    Whether its weights are this model's is checked when they are loaded.

    Raises:
        MMDiscardError: It is missing, a folder, cut short, or something else.
    """
    if not is_local(path):
        return
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        what = 'is a folder' if os.path.isdir(path) else 'not found'
        raise MMDiscardError(f'checkpoint {what}: {path}')
    if not _is_torch_file(path):
        raise MMDiscardError(
            f'not a checkpoint: {path} is not a file written by torch.save, or is cut short'
        )


def _is_torch_file(path: str) -> bool:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('/data.pkl') for name in archive.namelist())
    with open(path, 'rb') as file:  # before PyTorch 1.6: a bare pickle, as many published ones
        return file.read(2) == b'\x80\x02'


class WeightCheck(Hook):
    """Ends a run whose checkpoint holds no weights, or those of another model."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        check_checkpoint(runner.model, checkpoint)


def check_checkpoint(model: nn.Module, checkpoint: Any) -> None:
    """Check that loading a checkpoint sets every weight that a prediction uses.

    MMEngine loads what fits and warns about the rest, so a model with a wrong checkpoint would be
    tested with random weights. The checkpoint (what ``torch.load`` returned) is loaded on trial,
    with whatever the model's own loading hooks do (resize position embeddings, add a prefix to
    names), and judged by what the loading reports of parameters and running statistics. Other
    buffers are built by the model itself. The model, bare or wrapped, keeps the weights that it
    had.

    Raises:
        MMDiscardError: if it holds no weights, or if a weight is absent or has another shape.
    """
    _check_is_weights(checkpoint)
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    with _restored(model):
        missing, misfits = _load(model, checkpoint)
    learned = _learned(model)
    unset = {*missing, *misfits}
    # A tensor with several names, such as shared weights, is set under any of them.
    loaded = {id(tensor) for key, tensor in learned.items() if key not in unset}
    absent = [key for key in missing if key in learned and id(learned[key]) not in loaded]
    misfit = [_shapes(key, text) for key, text in misfits.items() if key in learned]
    if absent or misfit:
        raise MMDiscardError(
            f'the checkpoint does not belong to this model: {_some("absent", absent)}'
            f'{_some("of another shape", misfit)}pass the one that was trained with this config'
        )


def _check_is_weights(checkpoint: Any) -> None:
    if not isinstance(checkpoint, Mapping):
        raise MMDiscardError(
            f'not a checkpoint: the file holds a {type(checkpoint).__name__}, not weights'
        )
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, Mapping) or not any(isinstance(v, Tensor) for v in weights.values()):
        raise MMDiscardError(
            'the checkpoint has no weights where MMEngine looks for them, at the top or under '
            f'`state_dict`; what it has is under {", ".join(map(repr, list(checkpoint)[:SHOWN]))}'
        )


def _load(model: nn.Module, checkpoint: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Load as MMEngine does; missing keys, and PyTorch's messages on those that did not fit."""
    missing: list[str] = []
    errors: list[str] = []

    def keep_report(*given: Any) -> None:
        # The lists that every module below adds to, and that hooks change in place.
        nonlocal missing, errors
        _, _, _, _, missing, _unexpected, errors = given

    handle = model._register_load_state_dict_pre_hook(keep_report)
    try:
        _load_checkpoint_to_model(model, checkpoint, strict=False, logger='silent')
    except Exception as error:
        # A loading hook of the model met weights that it was not made for.
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise MMDiscardError(
            f'the checkpoint cannot be loaded into this model, which ends in {reason}; pass the '
            'one that was trained with this config'
        ) from error
    finally:
        handle.remove()
    return missing, {found[1]: error for error in errors if (found := MISFIT.match(error))}


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Give parameters and buffers the values that they had before, in the end."""
    tensors = [*model.parameters(), *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)


def _learned(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and running statistics that a prediction uses, by name."""
    try:
        unused = adapter_class(unwrap(model)).unused_in_test
    except MMDiscardError:  # a model that cannot be attached to can still be tested
        unused = ()
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for prefix, module in model.named_modules(remove_duplicate=False):
        # Frozen normalization layers keep their weight and bias as buffers, too.
        normalizes = getattr(module, 'running_mean', None) is not None
        for name, buffer in module.named_buffers(recurse=False):
            if name != 'num_batches_tracked' and (normalizes or name.startswith(LEARNED_BUFFERS)):
                tensors[f'{prefix}.{name}' if prefix else name] = buffer
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(unused)}


def _shapes(key: str, message: str) -> str:
    """A key with its shape in the checkpoint and in the model, from PyTorch's message."""
    shapes = SHAPES.findall(message)
    if len(shapes) != 2:
        return key
    return f'{key} (({shapes[0]}) in the checkpoint, ({shapes[1]}) in the model)'


def _some(what: str, keys: list[str]) -> str:
    if not keys:
        return ''
    more = f' and {len(keys) - SHOWN} more' if len(keys) > SHOWN else ''
    return f'{len(keys)} weights {what}: {", ".join(keys[:SHOWN])}{more}; '
