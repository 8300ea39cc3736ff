"""Training an aggregator on a frozen model, as a model of MMEngine's Runner."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from mmengine.dist import all_reduce
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..errors import MMDiscardError
from ..models.attach import attach
from ..registry import AGGREGATORS, MODELS, SEARCHES, build
from ..subsampling.backbone import blank_image, inference_mode
from .base import LearnedAggregator
from .state_features import StateFeatures, collect, merged


class FeatureStore(Protocol):
    """Where features of images may be kept from one epoch to the next."""

    def get(self, images: Tensor) -> StateFeatures | None:
        """The states of all of ``images``; None if any is not there."""

    def put(self, images: Tensor, collected: StateFeatures) -> None:
        """Keep the states of ``images``, as far as there is room."""


@MODELS.register_module()
class AggregatorLearner(BaseModel):
    """The parameters of an aggregator, around a model that stays as it is.

    The model is no part of the module tree: optimizers, checkpoints and distributed wrappers see
    the aggregator alone. It is in evaluation mode and without gradients all the time.

    Args:
        model: config of the classifier or segmentor, or the model.
        aggregator: config of an aggregator that learns.
        subsampling: see `mmdiscard.attach`.
        search: chooses the states to train on.
        test_search: chooses those of predictions; default ``search``.
        max_rows: see `mmdiscard.attach`.
        store: keeps features from one epoch to the next; None for none.

    Attributes:
        base: the model.
        ensemble: what is attached to it.
        aggregator: the parameters.

    Raises:
        MMDiscardError: if settings do not fit, see `mmdiscard.attach`.
    """

    def __init__(
        self,
        model: Mapping[str, Any] | nn.Module,
        aggregator: Mapping[str, Any],
        subsampling: Mapping[str, Any] | None = None,
        search: Mapping[str, Any] | None = None,
        test_search: Mapping[str, Any] | None = None,
        max_rows: int | None = None,
        store: FeatureStore | None = None,
    ) -> None:
        aggregator = build(AGGREGATORS, aggregator)
        if not isinstance(aggregator, LearnedAggregator):
            raise MMDiscardError(
                f'{type(aggregator).__name__} has nothing to train; use one that learns, such as '
                'AttentionAggregator'
            )
        base = model if isinstance(model, nn.Module) else MODELS.build(model)
        base.requires_grad_(False)
        _evaluating(base)
        super().__init__(data_preprocessor=base.data_preprocessor)
        # Mixing images would mix their labels, and needs features that no cache has.
        if getattr(self.data_preprocessor, 'batch_augments', None) is not None:
            self.data_preprocessor.batch_augments = None
        self._hidden = [base]  # a list is no child
        self.ensemble = attach(base, subsampling, search, aggregator, max_rows)
        self.aggregator = aggregator.module.train()
        self._train_search = self.ensemble.search
        self._test_search = build(SEARCHES, test_search) if test_search else self._train_search
        self.ensemble.use(self._test_search)
        self.store = store
        self._read = self._levels_read()

    @property
    def base(self) -> nn.Module:
        return self._hidden[0]

    @property
    def model(self) -> nn.Module:
        """`base`, where `mmdiscard.models.unwrap` looks for it."""
        return self._hidden[0]

    def forward(
        self, inputs: Tensor, data_samples: Sequence[Any] | None = None, mode: str = 'tensor'
    ) -> Any:
        """Losses (``'loss'``), MM's predictions (``'predict'``) or merged logits (``'tensor'``)."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        self._search(self._test_search)
        if mode == 'predict':
            return self.base(inputs, data_samples, mode='predict')
        return self.ensemble.predict(inputs)

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """The base model's own losses on what the aggregator merges.

        Raises:
            MMDiscardError: if a loss is not finite; names the cause.
        """
        self._search(self._train_search)
        found = self.store.get(inputs) if self.store else None
        if found is None:
            found = collect(self.ensemble.pipeline, inputs, self._read)
            if self.store:
                self.store.put(inputs, found)
        tensors = merged(self.ensemble.pipeline, inputs, found, part=len(inputs))
        if self.ensemble.aggregator.stage.head_after:
            losses = self.ensemble.adapter.loss(tensors, inputs, data_samples)
        else:
            losses = self.ensemble.adapter.loss_of_logits(tensors[0], data_samples)
        self._check_finite(losses, found)
        return losses

    def train(self, mode: bool = True) -> 'AggregatorLearner':
        super().train(mode)
        _evaluating(self.base)
        return self

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> 'AggregatorLearner':
        # Where parameters move to another device, the base moves along.
        self.base._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def _search(self, search: Any) -> None:
        if self.ensemble.search is not search:
            self.ensemble.use(search)

    def _levels_read(self) -> tuple[bool, ...]:
        adapter = self.ensemble.adapter
        image = blank_image(adapter.backbone, self.ensemble.fingerprint.input_size)
        with inference_mode(self.base):
            levels = adapter.features(image)
        return adapter.levels_read(levels, image)

    def _check_finite(self, losses: Mapping[str, Any], found: StateFeatures) -> None:
        """Raise on all processes of a distributed run if a loss of any is not finite."""
        values = [value for key, value in losses.items() if 'loss' in key]
        finite = torch.stack([_all_finite(value) for value in values]).all()
        agreed = finite.float()
        all_reduce(agreed, 'min')
        if agreed:
            return
        if not all(_all_finite(parameter) for parameter in self.aggregator.parameters()):
            cause = 'the parameters of the aggregator are not finite any more: lower the lr'
        elif not all(_all_finite(level) for level in found.features):
            cause = 'the frozen model gives features that are not finite: check its checkpoint'
        else:
            cause = 'labels or merged features are out of range: check the data, or lower the lr'
        raise MMDiscardError(f'the loss is not finite ({_shown(losses)}); {cause}')


def _evaluating(model: nn.Module) -> None:
    """Evaluation mode, one by one: some backbones override `train` with side effects."""
    for module in model.modules():
        module.training = False


def _all_finite(value: Any) -> Tensor:
    parts = value if isinstance(value, list | tuple) else [value]
    return torch.stack([part.detach().isfinite().all() for part in parts]).all()


def _shown(losses: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{key}={float(value.detach().mean()):.4g}'
        for key, value in losses.items()
        if isinstance(value, Tensor)
    )
