"""Tensors that modules keep as plain attributes, as a memory of earlier images or a cache."""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # parameters, buffers, hooks and the like


@contextmanager
def kept_attributes(model: nn.Module) -> Iterator[None]:
    """Puts plain attributes that hold tensors back as they were, and takes new ones away."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    copies = [tree_map(_copied, _with_tensors(attributes)) for _, attributes in before]
    try:
        yield
    finally:
        for (module, attributes), kept in zip(before, copies, strict=True):
            for name in kept.keys() | _with_tensors(vars(module)).keys():
                if name not in attributes:
                    del vars(module)[name]
                elif name in kept and not _unchanged(attributes[name], kept[name]):
                    vars(module)[name] = kept[name]
                else:  # such as the None of an empty cache
                    vars(module)[name] = attributes[name]


def _with_tensors(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in attributes.items()
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
