"""TTA models: views of MM's `tta_pipeline`, merged with or without mmdiscard inside."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from torch import Tensor, nn

from ..registry import MERGERS, MODELS, build


class DiscardTTA(BaseTTAModel):
    """Merges the probabilities of views. Subclasses say where a sample keeps them.

    With `SubsamplingSearchHook` every view is itself merged from several states.

    Args:
        module: config of the model, or the model.
        data_preprocessor: as in MMEngine's `BaseTTAModel`.
        merger: config of a merger; default the mean, which is what MM's own TTA models do.
    """

    def __init__(
        self,
        module: Mapping[str, Any] | nn.Module,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        merger: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(module, data_preprocessor)
        self.merger = build(MERGERS, merger or dict(type='MeanMerger'))

    def merge_preds(self, data_samples_list: Sequence[Sequence[Any]]) -> list[Any]:
        """Merge the views of each image into one sample."""
        return [self.merge_views(views) for views in data_samples_list]

    def merge_views(self, views: Sequence[Any]) -> Any:
        """Merge the samples of one image, one per view, into one sample."""
        raise NotImplementedError


@MODELS.register_module()
class DiscardClsTTA(DiscardTTA):
    """TTA for MMPretrain classifiers."""

    def merge_views(self, views: Sequence[Any]) -> Any:
        merged = views[0].new()
        return merged.set_pred_score(self.merger.merge(view.pred_score for view in views))


@MODELS.register_module()
class DiscardSegTTA(DiscardTTA):
    """TTA for MMSegmentation segmentors.

    The merged sample keeps probabilities in ``seg_logits``. For binary heads with one output
    channel MM's samples hold probabilities already, and they are merged as they are.
    """

    def merge_views(self, views: Sequence[Any]) -> Any:
        merged = views[0].clone()
        probabilities = self.merger.merge(map(self._probabilities, views))
        merged.set_data(
            dict(
                seg_logits=PixelData(data=probabilities),
                pred_sem_seg=PixelData(data=self._labels(probabilities)),
            )
        )
        return merged

    @staticmethod
    def _probabilities(view: Any) -> Tensor:
        logits = view.seg_logits.data
        return logits.softmax(dim=0) if len(logits) > 1 else logits

    def _labels(self, probabilities: Tensor) -> Tensor:
        if len(probabilities) > 1:
            return probabilities.argmax(dim=0, keepdim=True)
        return (probabilities > self.module.decode_head.threshold).to(torch.long)
