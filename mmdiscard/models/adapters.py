"""Adapters: how an ensemble calls the models of each MM package.

An adapter knows two things of a model: how features become logits, and which of its methods to
route through the ensemble. Everything that MM does before and after stays MM's. Adapters are
registered under the class name of the model they serve; subclasses of that model are served too.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MMDiscardError, UnsearchableModelError
from ..execution import Levels
from ..registry import ADAPTERS
from ..subsampling import ImageInput, SubsamplingGroup
from ..subsampling.backbone import inference_mode
from .backbone_patch import BackbonePatch
from .input_watch import InputWatch
from .method_patch import MethodPatch
from .wrappers import run_eagerly

Predict = Callable[[Tensor, Any], Tensor]
ATTACHED = '_mmdiscard_attached'  # an attribute of models that have an adapter in them


class ModelAdapter:
    """Interface of all adapters of a built model.

    Attributes:
        backbone: the module that is searched, which maps images to output levels.
        backbone_patch: runs it, or replays features through it.
        input_watch: sees what the part that is searched receives from the model.

    Raises:
        MMDiscardError: if the model has no part that gives logits.
    """

    #: whether logits are maps, ``(M, K, H, W)``
    dense = False
    #: whether maps are resized to the image, which stretches those whose stride does not divide it
    stretches_maps = False
    #: what a prediction does not use, as prefixes of state-dict keys
    unused_in_test: tuple[str, ...] = ()
    #: how states are merged unless the user says otherwise
    default_aggregator: Mapping[str, Any] = {}

    def __init__(self, model: nn.Module) -> None:
        self.check(model)
        self.model = model
        self.backbone = self.backbone_of(model)
        #: whether the model changes its images before the backbone receives them
        self.changes_images = False
        #: whether the image is displaced in front of the whole model
        self.whole = False
        self._patches: list[MethodPatch] = []
        self._parts: list[tuple[str, nn.Module]] = []
        self.input_watch = InputWatch(self.called_module(model))
        try:
            run_eagerly(model, self._patches)
            self.backbone_patch = BackbonePatch(self.backbone)
            self._patches.append(self.backbone_patch.forward)
            self._entry: MethodPatch | None = None
        except BaseException:
            self.uninstall()
            raise

    @classmethod
    def check(cls, model: nn.Module) -> None:
        """Raise `MMDiscardError` unless states of a model can be merged at all."""

    @staticmethod
    def backbone_of(model: nn.Module) -> nn.Module:
        """The module to search, from images ``(M, 3, H, W)`` to output levels."""
        return model.backbone

    def check_inside(self) -> None:
        """Raise `UnsearchableModelError` if nothing but the image can be searched."""

    @staticmethod
    def has_independent_classes(model: nn.Module) -> bool:
        """Whether classes are independent decisions (sigmoid), rather than exclusive (softmax)."""
        return False

    @property
    def independent_classes(self) -> bool:
        """See `has_independent_classes`."""
        return self.has_independent_classes(self.model)

    @staticmethod
    def called_module(model: nn.Module) -> nn.Module:
        """The module that the model calls with its images."""
        return model.backbone

    def take_whole(self) -> None:
        """Search the image in front of the whole model: it is the only level, the model its head.

        For models whose backbone cannot be searched, or is not all that sees the image.
        """
        self.whole = True
        self.backbone = ImageInput(self.model)

    def features(self, images: Tensor) -> Levels:
        """Run the backbone, ``(M, C, H, W)`` to its output levels."""
        return (self.backbone(images),) if self.whole else self.backbone_patch.run(images)

    def backbone_input(self, images: Tensor, context: Any) -> Tensor:
        """Input of the backbone for images of the model, ``(N, C, H, W)`` each.

        Raises:
            UnsearchableModelError: if the model does not call its backbone with one tensor of
                images.
        """
        if self.whole or not self.changes_images:
            return images
        try:
            args, kwargs = self.input_watch.received(lambda: self.run_plain(images, context))
        except LookupError:
            args, kwargs = (), {}
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
            raise UnsearchableModelError(
                f'{type(self.model).__name__} does not call its backbone with one tensor of images '
                '`backbone(images)`, so its states cannot be computed'
            )
        return args[0]

    def accepts(self, images: Tensor, in_channels: int) -> bool:
        """Whether the model makes images of ``in_channels`` for its backbone of ``images``."""
        try:
            context = self.default_context(images)
            if self.whole:
                self.run_plain(images, context)
                return True
            args, _ = self.input_watch.received(lambda: self.run_plain(images, context))
            return args[0].shape[1] == in_channels
        except Exception:  # whatever a model of others raises
            return False

    def run_plain(self, images: Tensor, context: Any) -> Any:
        """Run the model as it was before, as far as the patched method goes."""
        raise NotImplementedError

    def head(self, levels: Levels, images: Tensor, context: Any) -> Tensor:
        """Logits ``(M, K)`` or ``(M, K, H, W)`` from the output levels of a backbone.

        Args:
            levels: per level ``(M, C, h, w)``.
            images: ``(M, 3, H, W)``, what the levels were computed from.
            context: as `context_of` gives it.
        """
        if self.whole:
            return self.logits(levels[0], context)
        copies = tuple(level.clone() for level in levels)  # heads may overwrite what they are given
        with self.backbone_patch.replay(copies):
            return self.logits(images, context)

    def logits(self, images: Tensor, context: Any) -> Tensor:
        """Logits ``(M, K)`` or ``(M, K, H, W)`` of the model without states.

        Raises:
            MMDiscardError: if the model gives anything else.
        """
        raise NotImplementedError

    def context_of(self, context: Any, rows: Sequence[int]) -> Any:
        """Inputs of the model besides the pixels, for some rows of a batch."""
        return None

    def default_context(self, images: Tensor) -> Any:
        """A context for bare images ``(M, 3, H, W)``."""
        return None

    def window_context(self, context: Any, images: Sequence[int], crops: Tensor) -> Any:
        """A context for windows of images.

        Args:
            context: of a batch.
            images: position in the batch of the image of each window.
            crops: ``(M, C, h, w)``, the windows.
        """
        return self.context_of(context, images)

    def valid_sizes(self, images: Tensor, context: Any) -> list[tuple[int, int]]:
        """``(H, W)`` of every image without what was padded to the right and below."""
        return [tuple(images.shape[2:])] * len(images)

    def levels_read(self, levels: Levels, images: Tensor) -> tuple[bool, ...]:
        """On which of the output levels of ``images`` the logits depend."""
        leaves = tuple(level.detach().requires_grad_() for level in levels)
        with inference_mode(self.model), torch.enable_grad():
            try:
                logits = self.head(leaves, images, self.default_context(images))
                gradients = torch.autograd.grad(logits.sum(), leaves, allow_unused=True)
            except RuntimeError:  # a head in NumPy or without gradients: it may read all of them
                return (True,) * len(levels)
        return tuple(gradient is not None for gradient in gradients)

    def samples(self, images: Tensor) -> list[Any]:
        """Data samples of bare images ``(N, C, H, W)``, as MM gives them to `predict`."""
        raise NotImplementedError

    @property
    def entry_name(self) -> str:
        """The method whose logits are replaced."""
        return self._entry.name

    def keep_parts(self, groups: Sequence[SubsamplingGroup]) -> None:
        """Remember the modules with patches and hooks in them, for `check_parts`."""
        members = (self.backbone.get_submodule(name) for group in groups for name in group.members)
        kept = {*members, *(patch.module for patch in self._patches)}
        self._parts = [(n, module) for n, module in self.model.named_modules() if module in kept]

    def check_parts(self) -> None:
        """Check that the model still has the modules with patches and hooks in them.

        Raises:
            MMDiscardError: if one was exchanged, or all of it was detached.
        """
        name = type(self.model).__name__
        if not self._patches:
            raise MMDiscardError(f'this ensemble is detached from its {name}; call `attach` again')
        for path, module in self._parts:
            try:
                found = self.model.get_submodule(path)
            except AttributeError:
                found = None
            if found is not module:
                raise MMDiscardError(
                    f'{path!r} of {name} was exchanged while mmdiscard was attached; call '
                    '`detach()` before, and `attach` after it'
                )

    def install(self, predict: Predict) -> None:
        """Take the logits of the model's predictions from ``predict(images, context)``."""
        raise NotImplementedError

    def route(self, predict: Predict) -> AbstractContextManager[None]:
        """Take them from another function, in this thread and within a context."""
        return self._entry.redirect(partial(self._enter, predict))

    def _enter(self, predict: Predict, *args: Any, **kwargs: Any) -> Any:
        """The patched method, with logits from ``predict``."""
        raise NotImplementedError

    def wrap_predict(self, wrap: Callable) -> None:
        """Call ``wrap(predict, inputs, data_samples)`` in the place of the model's ``predict``."""
        self._patch(self.model, 'predict', partial(wrap, self.model.predict))

    def _install(self, method: str, predict: Predict) -> None:
        self._entry = self._patch(self.model, method, partial(self._enter, predict))

    def _patch(self, module: nn.Module, name: str, handler: Callable | None = None) -> MethodPatch:
        self._patches.append(MethodPatch(module, name, handler))
        return self._patches[-1]

    def loss(self, levels: Levels, images: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
        """The model's own losses on the output levels of its backbone, auxiliary heads left out.

        Args:
            levels: per level ``(N, C, h, w)``, merged.
            images: ``(N, 3, H, W)``.
            samples: the MM data samples, with their labels.
        """
        return self.loss_of_logits(self.head(levels, images, self.default_context(images)), samples)

    def loss_of_logits(self, logits: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
        """The model's own losses on merged logits ``(N, K)`` or ``(N, K, H, W)``.

        Raises:
            MMDiscardError: if the model has none for logits.
        """
        raise MMDiscardError(
            f'{type(self.model).__name__} has no loss of merged logits, so no aggregator can be '
            'trained for it'
        )

    def uninstall(self) -> None:
        """Leave the model as it was."""
        vars(self.model).pop(ATTACHED, None)
        self.input_watch.remove()
        while self._patches:
            self._patches.pop().remove()


@ADAPTERS.register_module(name='ImageClassifier')
class ClassifierAdapter(ModelAdapter):
    """MMPretrain's `ImageClassifier`: its own `predict`, in which the head gives merged logits."""

    default_aggregator = dict(type='EntropyAggregator', on='features', align='bilinear')
    #: the part of the model whose ``forward`` returns the logits
    last_module = 'head'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._head = self._patch(getattr(model, self.last_module), 'forward')
        self._plain = model.predict

    @classmethod
    def check(cls, model: nn.Module) -> None:
        if getattr(model, cls.last_module, None) is None:
            raise MMDiscardError(
                f'this {type(model).__name__} has no head, so there is no prediction to merge; '
                'build it with a `head`'
            )

    @staticmethod
    def has_independent_classes(model: nn.Module) -> bool:
        return _is_a(getattr(model, 'head', None), 'MultiLabelClsHead')

    def logits(self, images: Tensor, context: Any) -> Tensor:
        return one_score_per_class(self.model(images, mode='tensor'), self.model.head)

    def run_plain(self, images: Tensor, context: Any) -> Any:
        return self._plain(images)

    def samples(self, images: Tensor) -> list[Any]:
        from mmpretrain.structures import DataSample

        size = tuple(images.shape[2:])
        return [DataSample(metainfo=dict(img_shape=size, ori_shape=size)) for _ in images]

    def loss_of_logits(self, logits: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
        with self._head.redirect(lambda *args, **kwargs: logits):
            return self.model.head.loss((logits,), samples)

    def install(self, predict: Predict) -> None:
        self._install('predict', predict)

    def _enter(
        self, predict: Predict, inputs: Tensor, data_samples: Any = None, **kwargs: Any
    ) -> Any:
        logits = predict(inputs, None)
        blank = self.backbone_patch.blank_levels(len(inputs))
        with (
            self.backbone_patch.replay(blank),
            self._head.redirect(lambda *args, **kwargs: logits),
        ):
            return self._plain(inputs, data_samples, **kwargs)


@ADAPTERS.register_module(name='EncoderDecoder')
class SegmentorAdapter(ModelAdapter):
    """MMSegmentation's `EncoderDecoder` and its kin: `encode_decode` gives merged logits.

    Whole and slide inference, flips, scales and padding go on calling `encode_decode` and so need
    no word here. The context is the list of image metas.
    """

    dense = True
    default_aggregator = dict(type='AverageAggregator', on='logits', align='exact')
    unused_in_test = ('auxiliary_head.',)

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._plain = model.encode_decode

    @staticmethod
    def has_independent_classes(model: nn.Module) -> bool:
        head = last_head(model)
        losses = head.loss_decode if hasattr(head, 'loss_decode') else nn.Identity()
        return any(getattr(loss, 'use_sigmoid', False) for loss in losses.modules())

    @property
    def stretches_maps(self) -> bool:
        return not self.model.align_corners

    def logits(self, images: Tensor, context: Any) -> Tensor:
        logits = self._plain(images, context)
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise MMDiscardError(
                f'{type(self.model).__name__}.encode_decode does not return a tensor of class '
                'scores (N, K, H, W), so its states cannot be merged; let it return that alone'
            )
        return logits

    run_plain = logits

    def samples(self, images: Tensor) -> list[Any]:
        from mmseg.structures import SegDataSample

        return [SegDataSample(metainfo=meta) for meta in self.default_context(images)]

    def loss(self, levels: Levels, images: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
        with self.backbone_patch.replay(levels):
            features = self.model.extract_feat(images)
        return self.model._decode_head_forward_train(features, samples)

    def loss_of_logits(self, logits: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
        loss = _loss_by_feat(last_head(self.model))
        return super().loss_of_logits(logits, samples) if loss is None else loss(logits, samples)

    def context_of(self, context: list[dict], rows: Sequence[int]) -> list[dict]:
        # Decode heads read the output size off the first meta, and slide inference writes the size
        # of its window there alone: whichever row comes first has to carry it.
        shape = {'img_shape': context[0]['img_shape']}
        return [{**context[row], **shape} for row in rows]

    def default_context(self, images: Tensor) -> list[dict]:
        size = images.shape[2:]
        return [{'ori_shape': size, 'img_shape': size, 'pad_shape': size}] * len(images)

    def window_context(
        self, context: list[dict], images: Sequence[int], crops: Tensor
    ) -> list[dict]:
        size = self.default_context(crops[:1])[0]
        return [{**context[image], **size} for image in images]

    def valid_sizes(self, images: Tensor, context: list[dict]) -> list[tuple[int, int]]:
        frame = tuple(images.shape[2:])
        return [_without_padding(meta, frame) for meta in context]

    def install(self, predict: Predict) -> None:
        self._install('encode_decode', predict)

    def _enter(self, predict: Predict, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        # Decode heads read the first meta alone, so callers may give no other.
        absent = len(inputs) - len(batch_img_metas or inputs)
        if absent > 0:
            batch_img_metas = [*batch_img_metas, *batch_img_metas[-1:] * absent]
        return predict(inputs, batch_img_metas)


@ADAPTERS.register_module(name='MultimodalEncoderDecoder')
class MultimodalAdapter(SegmentorAdapter):
    """MMSegmentation's `MultimodalEncoderDecoder` (SAN): only the image can be searched.

    Its head reads the image besides the features of the encoder, and states of the encoder would
    leave that part where it is.
    """

    @staticmethod
    def has_independent_classes(model: nn.Module) -> bool:
        return False  # its sigmoid loss is of masks

    @staticmethod
    def backbone_of(model: nn.Module) -> nn.Module:
        return ImageInput(model)

    @staticmethod
    def called_module(model: nn.Module) -> nn.Module:
        return model.image_encoder

    def check_inside(self) -> None:
        raise UnsearchableModelError(
            f'the head of {type(self.model).__name__} reads the image besides the features of its '
            "encoder; set groups=['image']"
        )


def last_head(model: nn.Module) -> nn.Module:
    """The decode head of a segmentor; of a cascade the last one, whose output is the prediction."""
    head = model.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head  # of a cascade


def _without_padding(meta: Mapping[str, Any], frame: tuple[int, int]) -> tuple[int, int]:
    """``(H, W)`` of an image of MMSegmentation without padding; windows of slide have none."""
    if tuple(meta.get('pad_shape') or ())[:2] != frame:
        return frame
    _, right, _, below = meta.get('img_padding_size') or meta.get('padding_size') or (0, 0, 0, 0)
    return frame[0] - below, frame[1] - right


def _loss_by_feat(head: nn.Module) -> Callable | None:
    """MMSegmentation's loss of a decode head's logits, whatever else the head makes of it.

    Heads with more than one output override it, but in an ensemble there are logits alone.
    """
    own = next((cls for cls in type(head).__mro__ if cls.__name__ == 'BaseDecodeHead'), None)
    return own and hasattr(head, 'loss_decode') and partial(own.loss_by_feat, head) or None


def one_score_per_class(logits: Any, source: nn.Module) -> Tensor:
    """``logits`` if they are ``(M, K)``.

    Raises:
        MMDiscardError: if they are not; ``source`` is what gave them.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise MMDiscardError(
            f'{type(source).__name__} does not give one score per class, so its states cannot be '
            'merged'
        )
    return logits


def _is_a(module: nn.Module, name: str) -> bool:
    """Whether a class of that name is among the classes of ``module``."""
    return any(cls.__name__ == name for cls in type(module).__mro__)
