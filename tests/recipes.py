"""How the golden data's inputs and weights are made: from names, so that none are shipped."""

import zlib

import numpy as np
import torch


def arr(name: str, shape: tuple[int, ...], scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """The array that the recipe gives ``name``, float32."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return (shift + scale * noise).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of one state-dict entry."""
    if name.endswith('running_var'):
        return (1 + 0.1 * np.abs(arr(name, shape))).astype(np.float32)
    if name.endswith('running_mean'):
        return arr(name, shape, 0.1)
    if len(shape) == 4:
        return arr(name, shape, float(np.sqrt(2 / (shape[1] * shape[2] * shape[3]))))
    if len(shape) == 2:
        return arr(name, shape, 0.05)
    if name.endswith('weight'):
        return arr(name, shape, 0.1, 1.0)
    return arr(name, shape, 0.1)


def recipe_state_dict(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights for a classifier with a ResNet backbone, keyed as ``model`` names them.

    The recipe goes by torchvision's names: no ``backbone.`` prefix, and ``fc`` for ``head.fc``.
    """
    state = {}
    for key, value in model.state_dict().items():
        name = key.removeprefix('backbone.').removeprefix('head.')
        if name.endswith('num_batches_tracked'):
            state[key] = value
        else:
            state[key] = torch.from_numpy(weight(name, tuple(value.shape)))
    return state
