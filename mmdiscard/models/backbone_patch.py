"""The backbone of an attached model: run it, or replay features through it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..execution import Levels
from ..subsampling.backbone import as_levels, with_levels, without_tensors
from .method_patch import MethodPatch


class BackbonePatch:
    """Stands in for a backbone's `forward`, as an instance attribute, until `forward` is removed.

    While `replay` is active, whatever MM code comes after the backbone (necks, heads, cascades)
    runs on features that were computed elsewhere.

    Attributes:
        forward: the patch of that method.
        channels_last: by output level, whether the backbone gives a map ``(N, h, w, C)``. Such
            levels are ``(N, C, h, w)`` everywhere else.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self.forward = MethodPatch(backbone, 'forward', self._run)
        self.channels_last: tuple[bool, ...] = ()
        self._of_thread = threading.local()  # what it returned last, without the tensors

    def run(self, images: Tensor) -> Levels:
        """Run the backbone: ``(M, 3, H, W)`` to its output levels."""
        return self.channels_first(as_levels(self._backbone(images)))

    @contextmanager
    def replay(self, levels: Levels) -> Iterator[None]:
        """Let the backbone return ``levels`` instead of running, in the form of its last run."""
        output = with_levels(self._of_thread.form, self._permuted(levels, 0, 2, 3, 1))
        with self.forward.redirect(lambda *args, **kwargs: output):
            yield

    def blank_levels(self, count: int) -> Levels:
        """Zeros in the shapes of the last run, for ``count`` images; they take no memory."""
        return tuple(
            torch.zeros((), dtype=dtype, device=device).expand(count, *shape)
            for shape, dtype, device in self._of_thread.shapes
        )

    def channels_first(self, levels: Levels) -> Levels:
        """Levels as the backbone returns them, with maps ``(N, C, h, w)``."""
        return self._permuted(levels, 0, 3, 1, 2)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's own forward, whoever calls it; the form of its output is noted.

        It gets a copy of the images, which it may overwrite: other states need them again.
        """
        args, kwargs = tree_map(_copied, (args, kwargs))
        output = self.forward.original(*args, **kwargs)
        levels = self.channels_first(as_levels(output))
        self._of_thread.form = without_tensors(output)
        self._of_thread.shapes = [(level.shape[1:], level.dtype, level.device) for level in levels]
        return output

    def _permuted(self, levels: Levels, *axes: int) -> Levels:
        """Levels with the axes of those that are channels-last permuted."""
        if not any(self.channels_last):
            return levels
        layouts = zip(levels, self.channels_last, strict=True)
        return tuple(level.permute(axes) if last else level for level, last in layouts)


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
