"""Tensors that modules keep as plain attributes, as a memory of earlier images or a cache."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # parameters, buffers, hooks and the like


@contextmanager
def kept_attributes(model: nn.Module) -> Iterator[None]:
    """Puts plain attributes that hold tensors back as they were, and takes new ones away."""
    before = [(module, dict(vars(module)), _with_tensors(module)) for module in model.modules()]
    copies = [tree_map(_copied, values) for _, _, values in before]
    try:
        yield
    finally:
        for (module, every, values), kept in zip(before, copies, strict=True):
            for name in _with_tensors(module).keys() - values.keys():
                if name in every:
                    vars(module)[name] = every[name]  # such as the None of an empty cache
                else:
                    del vars(module)[name]
            for name, value in values.items():
                same = _unchanged(value, kept[name])
                vars(module)[name] = value if same else kept[name]


def _with_tensors(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if name not in OF_EVERY_MODULE
        and isinstance(value, Tensor | list | tuple | dict | deque)
        and any(isinstance(leaf, Tensor) for leaf in tree_flatten(value)[0])
    }


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _unchanged(value: Any, kept: Any) -> bool:
    now, then = tree_flatten(value)[0], tree_flatten(kept)[0]
    return len(now) == len(then) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b
        for a, b in zip(now, then, strict=True)
    )
