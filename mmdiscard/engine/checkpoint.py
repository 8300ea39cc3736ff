"""Refusing a checkpoint that does not belong to the model."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import MMDiscardError
from ..models import adapter_class, unwrap

SHOWN = 3


def check_checkpoint(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Check that every weight that a prediction uses is in the checkpoint, in the right shape.

    MMEngine loads what fits and warns about the rest, so a wrong checkpoint would be tested with
    random weights. Extra entries do no harm and are left to MMEngine's warning.

    Raises:
        MMDiscardError: if a parameter or buffer is absent or has another shape.
    """
    model = unwrap(model)
    unused = adapter_class(model).unused_in_test
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    wanted = {
        key: value
        for key, value in model.state_dict().items()
        if not key.startswith(unused) and not key.endswith('num_batches_tracked')
    }
    absent = [key for key in wanted if key not in weights]
    misfit = [
        f'{key} ({tuple(weights[key].shape)} in the checkpoint, {tuple(value.shape)} in the model)'
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if absent or misfit:
        raise MMDiscardError(
            f'the checkpoint does not belong to this model: {_some("absent", absent)}'
            f'{_some("of another shape", misfit)}pass the one that was trained with this config'
        )


def _some(what: str, keys: list[str]) -> str:
    if not keys:
        return ''
    more = f' and {len(keys) - SHOWN} more' if len(keys) > SHOWN else ''
    return f'{len(keys)} weights {what}: {", ".join(keys[:SHOWN])}{more}; '
