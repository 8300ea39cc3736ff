"""Adapter for timm models; all code specific to timm is here.

A timm model has no backbone of its own to replace: features are what its ``forward_features``
gives, and its ``forward_head`` makes logits of them.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..registry import ADAPTERS
from .adapters import ClassifierAdapter, Predict, one_score_per_class


class TimmFeatures(nn.Module):
    """The part of a timm model in front of its head, as a backbone.

    It holds the model as ``model`` and is no part of it, so names of groups begin with ``model.``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._channels_last = getattr(model, 'output_fmt', None) == 'NHWC'

    def forward(self, images: Tensor) -> Any:
        """``(M, 3, H, W)`` to maps ``(M, C, h, w)`` or tokens ``(M, L, C)``."""
        return self._permuted(self.model.forward_features(images), 0, 3, 1, 2)

    def head(self, features: Any) -> Tensor:
        """Logits ``(M, K)`` of what `forward` returned."""
        return self.model.forward_head(self._permuted(features, 0, 2, 3, 1))

    def _permuted(self, features: Any, *axes: int) -> Any:
        def permute(leaf: Any) -> Any:
            is_map = isinstance(leaf, Tensor) and leaf.ndim == 4
            return leaf.permute(axes).contiguous() if is_map else leaf

        return tree_map(permute, features) if self._channels_last else features


@ADAPTERS.register_module(name='TimmClassifier')
class TimmAdapter(ClassifierAdapter):
    """MMPretrain's `TimmClassifier`: merged logits enter its own post-processing."""

    last_module = 'model'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._features = self.backbone

    @staticmethod
    def backbone_of(model: nn.Module) -> nn.Module:
        return TimmFeatures(model.model)

    @staticmethod
    def called_module(model: nn.Module) -> nn.Module:
        return model.model

    def logits(self, images: Tensor, context: Any) -> Tensor:
        logits = self._features.head(self._features(images))
        return one_score_per_class(logits, self.model.model)

    def loss_of_logits(self, logits: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
        return self.model._get_loss(logits, samples)

    def _enter(self, predict: Predict, inputs: Tensor, data_samples: Any = None) -> Any:
        logits = predict(inputs, None)
        with self._head.redirect(lambda *args, **kwargs: logits):
            return self._plain(inputs, data_samples)
