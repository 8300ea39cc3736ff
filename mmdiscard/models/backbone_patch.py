"""The one place where features enter a model: its backbone's `forward`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..execution import Levels
from ..subsampling.backbone import as_levels, with_levels, without_tensors


class BackbonePatch:
    """Stands in for a backbone's `forward`, to run the backbone or to replay given features.

    With `replay`, whatever MM code comes after the backbone (necks, heads, cascades) runs on
    features that were computed elsewhere, so none of it has to be known here.

    Args:
        backbone: gets an instance attribute ``forward`` until `remove`.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self._had_own_forward = 'forward' in vars(backbone)
        self._forward = backbone.forward
        self._fed: Any = None
        self._form: Any = None
        backbone.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._fed is not None:
            return self._fed
        return self._forward(*args, **kwargs)

    def run(self, images: Tensor) -> Levels:
        """Run the backbone: ``(M, 3, H, W)`` to its output levels."""
        output = self._backbone(images)
        self._form = without_tensors(output)
        return as_levels(output)

    @contextmanager
    def replay(self, levels: Levels) -> Iterator[None]:
        """Let the backbone return ``levels`` instead of running, in the form of its last run."""
        self._fed = with_levels(self._form, levels)
        try:
            yield
        finally:
            self._fed = None

    def remove(self) -> None:
        """Give the backbone its own `forward` back."""
        if self._had_own_forward:
            self._backbone.forward = self._forward
        else:
            del self._backbone.forward
