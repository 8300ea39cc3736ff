"""TTA models: views of MM's `tta_pipeline`, merged with or without mmdiscard inside."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from torch import Tensor, nn

from ..registry import MERGERS, MODELS, build
from .joint_budget import JointBudget, ViewLogits
from .view_output import (
    ViewOutput,
    naming,
    read_classifier,
    read_segmentor,
    split_views,
    view_names,
)


class DiscardTTA(BaseTTAModel):
    """Merges the views of an image as they come. Subclasses say where a sample keeps them.

    With `SubsamplingSearchHook` every view is itself merged from several states. Views that the
    merger does not use are not computed, and of those that it does only running sums are kept.

    Args:
        module: config of the model, or the model.
        data_preprocessor: as in MMEngine's `BaseTTAModel`.
        merger: config of a merger; default the mean, which is what MM's own TTA models do.
        joint: ``dict(cost=4.0)`` lets views and states compete for so many plain forwards per
            image, see `mmdiscard.search.joint.JointSearch`; None to compute every view, with as
            many states as the search says.

    Raises:
        MMDiscardError: if the merger or ``joint`` cannot be used.
    """

    def __init__(
        self,
        module: Mapping[str, Any] | nn.Module,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        merger: Mapping[str, Any] | None = None,
        joint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(module, data_preprocessor)
        self.merger = build(MERGERS, merger or dict(type='MeanMerger'))
        self.joint = joint and JointBudget(joint, self.merger)

    def test_step(self, data: Any) -> list[Any]:
        """Predict the views of a batch one by one and merge them, one sample per image.

        Raises:
            MMDiscardError: if the merger was fitted to other views, or the model cannot predict
                one.
        """
        samples, merging = [], []
        for index, outputs in self.views(data):
            if not merging:
                samples = [output.sample for output in outputs]
                merging = [self.merger.begin() for _ in outputs]
            for image, output in zip(merging, outputs, strict=True):
                if output is not None:
                    image.add(index, output.values(self.merger.on), output.weight)
        return [
            self.merged(sample, self.merger.probabilities(image.result()))
            for sample, image in zip(samples, merging, strict=True)
        ]

    def views(self, data: Any) -> Iterator[tuple[int, list[ViewOutput]]]:
        """Predict the views that the merger uses, one at a time.

        Args:
            data: a batch as MM collates it.

        Yields:
            The position of a view and what the model says of every image in it; None of an image
            that did not take it (see ``joint``), though every image takes the first.
        """
        views = split_views(data)
        names = view_names(views)
        self.merger.fit_to(names)
        if self.joint:
            yield from self._joint_views(views, names)
            return
        for index, view in enumerate(views):
            if self.merger.uses(index):
                with naming(view, names[index]):
                    outputs = self.read(self.module, view, self.merger.joint)
                yield index, outputs

    def _joint_views(
        self, views: Sequence[Any], names: Sequence[str]
    ) -> Iterator[tuple[int, list[ViewOutput | None]]]:
        ensemble, _ = self.joint.search(self.module)
        for found in self.joint.logits(self.module, views, names):

            def predict(images: Tensor, context: Any, found: ViewLogits = found) -> Tensor:
                ensemble.last = replace(ensemble.last, weight=found.weight)
                return found.logits

            # MM's own pre- and post-processing, around logits that are there already.
            with ensemble.route(predict):
                outputs = self.read(self.module, views[found.view], self.merger.joint)
            taken = found.taken.tolist()
            yield found.view, [o if own else None for o, own in zip(outputs, taken, strict=True)]

    def merge_preds(self, data_samples_list: Sequence[Sequence[Any]]) -> list[Any]:
        """Not used: views are merged as they come."""
        raise NotImplementedError

    @staticmethod
    def read(model: nn.Module, view: Any, joint: bool) -> list[ViewOutput]:
        """Predict one view."""
        raise NotImplementedError

    def merged(self, sample: Any, probabilities: Tensor) -> Any:
        """A sample with the merged prediction, like ``sample`` of the first view."""
        raise NotImplementedError


@MODELS.register_module()
class DiscardClsTTA(DiscardTTA):
    """TTA for MMPretrain classifiers."""

    read = staticmethod(read_classifier)

    def merged(self, sample: Any, probabilities: Tensor) -> Any:
        return sample.new().set_pred_score(probabilities)


@MODELS.register_module()
class DiscardSegTTA(DiscardTTA):
    """TTA for MMSegmentation segmentors.

    The merged sample keeps probabilities in ``seg_logits``. For binary heads with one output
    channel MM's samples hold probabilities already, and they are merged as they are.
    """

    read = staticmethod(read_segmentor)

    def merged(self, sample: Any, probabilities: Tensor) -> Any:
        merged = sample.clone()
        merged.set_data(
            dict(
                seg_logits=PixelData(data=probabilities),
                pred_sem_seg=PixelData(data=self._labels(probabilities)),
            )
        )
        return merged

    def _labels(self, probabilities: Tensor) -> Tensor:
        if len(probabilities) > 1:
            # The same as argmax, which is four times as slow along the first dimension.
            return probabilities.max(dim=0, keepdim=True).indices
        return (probabilities > self.module.decode_head.threshold).long()
