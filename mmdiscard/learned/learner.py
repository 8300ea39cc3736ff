"""Model for MMEngine's Runner: trains an aggregator on top of a frozen model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..errors import MMDiscardError
from ..models.attach import attach
from ..registry import AGGREGATORS, MODELS, SEARCHES, build
from ..search import Search
from .feature_cache import FeatureCache
from .learned_aggregator import LearnedAggregator
from .state_features import (
    StateFeatures,
    compute_state_features,
    levels_read,
    merge_state_features,
)


@MODELS.register_module()
class AggregatorLearner(BaseModel):
    """Trains the parameters of an aggregator on top of a frozen model.

    The model is not a submodule, so optimizers, checkpoints and distributed wrappers see the
    parameters of the aggregator only. It stays in evaluation mode and has no gradients.

    Args:
        model: the classifier or segmentor, or its config.
        aggregator: config of a `LearnedAggregator`.
        search: config of the search in training, see `mmdiscard.attach`.
        test_search: config of the search in validation and test; None for ``search``.
        cache: of the features of states, for later epochs; None for no cache.
        options: other arguments of `mmdiscard.attach`, such as ``subsampling``.

    Attributes:
        base: the frozen model.
        ensemble: the `Ensemble` that is attached to it.
        aggregator: the parameters.

    Raises:
        MMDiscardError: if the aggregator has no parameters, or settings do not fit, see
            `mmdiscard.attach`.
    """

    def __init__(
        self,
        model: Mapping[str, Any] | nn.Module,
        aggregator: Mapping[str, Any],
        search: Mapping[str, Any] | None = None,
        test_search: Mapping[str, Any] | None = None,
        cache: FeatureCache | None = None,
        **options: Any,
    ) -> None:
        aggregator = build(AGGREGATORS, aggregator)
        if not isinstance(aggregator, LearnedAggregator):
            raise MMDiscardError(
                f'{type(aggregator).__name__} has nothing to train; use AttentionAggregator or '
                'PhaseAggregator'
            )
        base = model if isinstance(model, nn.Module) else MODELS.build(model)
        base.requires_grad_(False)
        _set_eval(base)
        super().__init__(data_preprocessor=base.data_preprocessor)
        # Mixup and CutMix make other images in every epoch, which could not be cached.
        if getattr(self.data_preprocessor, 'batch_augments', None) is not None:
            self.data_preprocessor.batch_augments = None
        self._base = [base]  # a list, so that it is not registered as a submodule
        self.ensemble = attach(base, search=search, aggregator=aggregator, **options)
        self.aggregator = aggregator.module.train()
        self.train_search = self.ensemble.search
        self.test_search = build(SEARCHES, test_search) if test_search else self.train_search
        self.ensemble.use(self.test_search)
        self.cache = cache
        self._levels_read: tuple[bool, ...] | None = None

    @property
    def base(self) -> nn.Module:
        return self._base[0]

    @property
    def model(self) -> nn.Module:
        """`base`, where `mmdiscard.models.unwrap` looks for it."""
        return self.base

    def forward(
        self, inputs: Tensor, data_samples: Sequence[Any] | None = None, mode: str = 'tensor'
    ) -> Any:
        """See MMEngine's `BaseModel.forward`; in the mode ``'tensor'`` merged logits."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        self._use(self.test_search)
        if mode == 'predict':
            return self.base(inputs, data_samples, mode='predict')
        return self.ensemble.predict(inputs)

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses of the base model's own head on the merged features or logits.

        Raises:
            MMDiscardError: if a loss is not finite; names the likely cause.
        """
        self._use(self.train_search)
        pipeline = self.ensemble.pipeline
        found = self._features(inputs)
        merged = merge_state_features(pipeline, inputs, found, rows_at_once=len(inputs))
        if pipeline.aggregator.stage.head_after:
            losses = pipeline.adapter.loss(merged, inputs, data_samples)
        else:
            losses = pipeline.adapter.loss_of_logits(merged[0], data_samples)
        self._check_finite(losses, found)
        return losses

    def train(self, mode: bool = True) -> 'AggregatorLearner':
        super().train(mode)
        _set_eval(self.base)
        return self

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> 'AggregatorLearner':
        # The base model is no submodule, so it is moved to another device or dtype here.
        self.base._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def _features(self, inputs: Tensor) -> StateFeatures:
        found = self.cache.get(inputs) if self.cache else None
        if found is None:
            pipeline = self.ensemble.pipeline
            self._levels_read = self._levels_read or levels_read(pipeline, inputs[:1])
            found = compute_state_features(pipeline, inputs, self._levels_read)
            if self.cache:
                self.cache.put(inputs, found)
        return found

    def _use(self, search: Search) -> None:
        if self.ensemble.search is not search:
            self.ensemble.use(search)

    def _check_finite(self, losses: Mapping[str, Any], found: StateFeatures) -> None:
        """Raise in all processes of a distributed run if a loss of any of them is not finite."""
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
        raise MMDiscardError(f'the loss is not finite ({_format(losses)}); {cause}')


def _set_eval(model: nn.Module) -> None:
    """Set evaluation mode without `train`, which some backbones override with side effects."""
    for module in model.modules():
        module.training = False


def _all_finite(value: Any) -> Tensor:
    parts = value if isinstance(value, list | tuple) else [value]
    return torch.stack([part.detach().isfinite().all() for part in parts]).all()


def _format(losses: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{key}={float(value.detach().mean()):.4g}'
        for key, value in losses.items()
        if isinstance(value, Tensor)
    )
