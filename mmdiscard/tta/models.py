"""TTA models: predict the views of MM's `tta_pipeline` and merge them, with or without states."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from torch import Tensor, nn

from ..errors import MMDiscardError
from ..models import adapter_class, unwrap
from ..models.uncertainty import confidence_of, fields_of, set_fields
from ..models.views import errors_name_view, split_views, view_names
from ..registry import MERGERS, MODELS, build
from .joint_budget import JointBudget, ViewLogits
from .view_disagreement import ViewDisagreement
from .view_output import ViewOutput, read_classifier, read_segmentor


class DiscardTTA(BaseTTAModel):
    """TTA model that merges views one after the other. Subclasses read and write samples.

    With `SubsamplingSearchHook` the prediction of every view is merged from several states. Views
    that the merger does not use are not computed.

    Args:
        module: the model, or its config.
        data_preprocessor: as in MMEngine's `BaseTTAModel`.
        merger: config of a merger; default `MeanMerger`, as in MM's own TTA models.
        joint: cost per image in plain forwards that is divided between views and states, such as
            ``dict(cost=4.0)``, see `JointSearch`; None to predict every view with the budget of the
            search.

    Raises:
        MMDiscardError: if the merger or ``joint`` cannot be used.
    """

    #: whether merged samples hold confidence and disagreement, if those of views do
    merges_uncertainty = True

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

    @property
    def independent_classes(self) -> bool:
        """Whether the model decides every class on its own (multi-label)."""
        return False

    def test_step(self, data: Any) -> list[Any]:
        """Predict the views of a batch one by one and merge them, one sample per image.

        Raises:
            MMDiscardError: if the merger does not fit the views or the model, or the model cannot
                predict a view.
        """
        samples, merging, compared = [], [], []
        for index, outputs in self.views(data):
            if not merging:
                samples = [output.sample for output in outputs]
                merging = [self.merger.begin() for _ in outputs]
                compared = [self._comparison(sample) for sample in samples]
            for image, comparison, output in zip(merging, compared, outputs, strict=True):
                if output is not None:
                    image.add(index, output.values(self.merger.on), output.weight)
                    if comparison is not None:
                        comparison.add(output)
        return [
            self._with_uncertainty(self.merger.probabilities(image.result()), sample, comparison)
            for sample, image, comparison in zip(samples, merging, compared, strict=True)
        ]

    def _comparison(self, sample: Any) -> ViewDisagreement | None:
        """Begins to compare the views of an image, where the first of them says how sure it is."""
        return fields_of(sample) and ViewDisagreement(self.independent_classes)

    def _with_uncertainty(
        self, probabilities: Tensor, sample: Any, comparison: ViewDisagreement | None
    ) -> Any:
        """The merged sample."""
        merged = self.merged(sample, probabilities)
        if comparison is not None:
            labels = merged.pred_sem_seg.data if 'pred_sem_seg' in merged else None
            sure = confidence_of(probabilities, labels, self.independent_classes)
            set_fields(merged, sure, comparison.result())
        return merged

    def views(self, data: Any) -> Iterator[tuple[int, list[ViewOutput | None]]]:
        """Predict the views that the merger uses, one at a time, of a batch as MM collates it.

        Raises `MMDiscardError` as `test_step` does.

        Yields:
            The position of a view and its output for every image. With ``joint`` it is None for
            images that did not take the view; every image takes the first.
        """
        views = split_views(data)
        names = view_names(views)
        self.merger.prepare(names, self.independent_classes)
        if self.joint:
            yield from self._joint_views(views, names)
            return
        for index, view in enumerate(views):
            if self.merger.uses(index):
                with errors_name_view(view, names[index]):
                    outputs = self.read(self.module, view, self.merger.joint)
                yield index, outputs

    def _joint_views(
        self, views: Sequence[Any], names: Sequence[str]
    ) -> Iterator[tuple[int, list[ViewOutput | None]]]:
        ensemble, _ = self.joint.search(self.module)
        for found in self.joint.logits(self.module, views, names):

            def predict(images: Tensor, context: Any, found: ViewLogits = found) -> Tensor:
                ensemble.publish(found.result)
                return found.logits

            # MM's pre- and post-processing, with logits that are computed already.
            view = views[found.view]
            with ensemble.adapter.route(predict), errors_name_view(view, names[found.view]):
                outputs = self.read(self.module, view, self.merger.joint)
            taken = found.taken.tolist()
            yield found.view, [o if own else None for o, own in zip(outputs, taken, strict=True)]

    def merge_preds(self, data_samples_list: Sequence[Sequence[Any]]) -> list[Any]:
        """Not used; abstract in `BaseTTAModel`."""
        raise NotImplementedError

    @staticmethod
    def read(model: nn.Module, view: Any, weighted: bool) -> list[ViewOutput]:
        """Predict one view.

        Args:
            model: the classifier or segmentor.
            view: as `split_views` returns it.
            weighted: whether the weights of the states are wanted.
        """
        raise NotImplementedError

    def merged(self, sample: Any, probabilities: Tensor) -> Any:
        """A copy of ``sample``, of the first view, with the merged prediction."""
        raise NotImplementedError


@MODELS.register_module()
class DiscardClsTTA(DiscardTTA):
    """TTA for MMPretrain classifiers, also multi-label ones."""

    read = staticmethod(read_classifier)

    @property
    def independent_classes(self) -> bool:
        try:
            model = unwrap(self.module)
        except MMDiscardError:  # a model that cannot be attached to
            return False
        return adapter_class(model).has_independent_classes(model)

    def merged(self, sample: Any, probabilities: Tensor) -> Any:
        merged = sample.new().set_pred_score(probabilities)
        return merged.set_pred_label(self._labels(probabilities))

    def _labels(self, probabilities: Tensor) -> Tensor:
        if not self.independent_classes:
            return probabilities.argmax(0, keepdim=True)
        head = unwrap(self.module).head
        if head.thr is None:
            return probabilities.topk(head.topk).indices
        return torch.where(probabilities >= head.thr)[0]


@MODELS.register_module()
class DiscardSegTTA(DiscardTTA):
    """TTA for MMSegmentation segmentors.

    ``seg_logits`` of the merged sample holds probabilities. MM's samples of a binary head with one
    output channel hold probabilities already, which are merged as they are.
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
            # Same as argmax, which is four times slower along the first dimension.
            return probabilities.max(dim=0, keepdim=True).indices
        return (probabilities > self.module.decode_head.threshold).long()
