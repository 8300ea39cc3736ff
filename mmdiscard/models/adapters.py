"""Where an ensemble meets a model of an MM package.

An adapter knows two things of a model: how features become logits, and which of its methods to
route through the ensemble. Everything that MM does before and after stays MM's. Adapters are
registered under the class name of the model they serve; subclasses of that model are served too.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..errors import MMDiscardError
from ..execution import Levels
from ..registry import ADAPTERS
from .backbone_patch import BackbonePatch

Predict = Callable[[Tensor, Any], Tensor]
ATTACHED = '_mmdiscard_attached'  # an attribute of models that have an adapter in them


class ModelAdapter:
    """What every adapter offers.

    Args:
        model: the built model.

    Attributes:
        backbone: the module that is searched, which maps images to output levels.
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
        self.model = model
        self.backbone = self.backbone_of(model)
        self.seam = BackbonePatch(self.backbone)
        self._patched: list[tuple[nn.Module, str]] = []
        self._patch(model, ATTACHED, True)

    @staticmethod
    def backbone_of(model: nn.Module) -> nn.Module:
        """The module to search, from images ``(M, 3, H, W)`` to output levels."""
        return model.backbone

    def features(self, images: Tensor) -> Levels:
        """Run the backbone, ``(M, 3, H, W)`` to its output levels."""
        return self.seam.run(images)

    def head(self, levels: Levels, images: Tensor, context: Any) -> Tensor:
        """Logits ``(M, K)`` or ``(M, K, H, W)`` from the output levels of a backbone.

        Args:
            levels: per level ``(M, C, h, w)``.
            images: ``(M, 3, H, W)``, what the levels were computed from.
            context: as `context_of` gives it.
        """
        raise NotImplementedError

    def context_of(self, context: Any, rows: Sequence[int]) -> Any:
        """What the model knows of its images besides their pixels, for some rows of a batch."""
        return None

    def default_context(self, images: Tensor) -> Any:
        """A context for bare images ``(M, 3, H, W)``."""
        return None

    def install(self, predict: Predict) -> None:
        """Route the model's predictions through ``predict(images, context)``: logits."""
        raise NotImplementedError

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
        for module, name in self._patched:
            delattr(module, name)
        self._patched = []
        self.seam.remove()

    def _patch(self, module: nn.Module, name: str, method: Callable) -> None:
        """Shadow a method by an instance attribute; parameters and class stay untouched."""
        setattr(module, name, method)
        self._patched.append((module, name))


class MergedLogits(tuple):
    """Logits ``(N, K)`` on their way through a head's post-processing, in the place of features."""


@ADAPTERS.register_module(name='ImageClassifier')
class ClassifierAdapter(ModelAdapter):
    """MMPretrain's `ImageClassifier`: merged logits enter the head's own `predict`."""

    default_aggregator = dict(type='EntropyAggregator', on='features', align='bilinear')

    def head(self, levels: Levels, images: Tensor, context: Any) -> Tensor:
        with self.seam.replay(levels):
            logits = self.model(images, mode='tensor')
        return one_score_per_class(logits, self.model.head)

    def loss_of_logits(self, logits: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
        return self.model.head.loss(MergedLogits([logits]), samples)

    def install(self, predict: Predict) -> None:
        model = self.model
        head_forward = model.head.forward

        def forward(feats: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(feats, MergedLogits):
                return feats[0]
            return head_forward(feats, *args, **kwargs)

        def predict_merged(inputs: Tensor, data_samples: Any = None, **kwargs: Any) -> Any:
            merged = MergedLogits([predict(inputs, None)])
            return model.head.predict(merged, data_samples, **kwargs)

        self._patch(model.head, 'forward', forward)
        self._patch(model, 'predict', predict_merged)


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
        self._encode_decode = model.encode_decode

    @property
    def stretches_maps(self) -> bool:
        return not self.model.align_corners

    def head(self, levels: Levels, images: Tensor, context: Any) -> Tensor:
        with self.seam.replay(levels):
            return self._encode_decode(images, context)

    def loss(self, levels: Levels, images: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
        with self.seam.replay(levels):
            features = self.model.extract_feat(images)
        return self.model._decode_head_forward_train(features, samples)

    def loss_of_logits(self, logits: Tensor, samples: Sequence[Any]) -> dict[str, Tensor]:
        head = self.model.decode_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head  # of a cascade
        loss = _loss_by_feat(head)
        return super().loss_of_logits(logits, samples) if loss is None else loss(logits, samples)

    def context_of(self, context: list[dict], rows: Sequence[int]) -> list[dict]:
        # Decode heads read the output size off the first meta, and slide inference writes the size
        # of its window there alone: whichever row comes first has to carry it.
        shape = {'img_shape': context[0]['img_shape']}
        return [{**context[row], **shape} for row in rows]

    def default_context(self, images: Tensor) -> list[dict]:
        size = images.shape[2:]
        return [{'ori_shape': size, 'img_shape': size, 'pad_shape': size}] * len(images)

    def install(self, predict: Predict) -> None:
        def encode_decode(inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
            return predict(inputs, batch_img_metas)

        self._patch(self.model, 'encode_decode', encode_decode)


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


def unwrap(model: Any) -> nn.Module:
    """The first model with an adapter inside inferencers, TTA models and distributed wrappers.

    Raises:
        MMDiscardError: if there is none.
    """
    inner = model
    while _adapter_of(inner) is None:
        wrapped = getattr(inner, 'module', getattr(inner, 'model', None))
        if wrapped is None:
            raise MMDiscardError(
                f'{type(inner).__name__} is not supported; mmdiscard attaches to '
                f'{", ".join(sorted(ADAPTERS.module_dict))} and their subclasses, bare or inside '
                'an inferencer, a TTA model or a distributed wrapper (register an adapter in '
                '`mmdiscard.registry.ADAPTERS` for others)'
            )
        inner = wrapped
    return inner


def adapter_class(model: nn.Module) -> type[ModelAdapter]:
    """The adapter that serves a model which `unwrap` returned."""
    return _adapter_of(model)


def searched_module(model: Any) -> nn.Module:
    """What is searched of a model: its backbone; a bare backbone is that itself."""
    try:
        model = unwrap(model)
    except MMDiscardError:
        return model
    return adapter_class(model).backbone_of(model)


def _adapter_of(model: Any) -> type[ModelAdapter] | None:
    known = ADAPTERS.module_dict
    names = (cls.__name__ for cls in type(model).__mro__)
    return next((known[name] for name in names if name in known), None)
