"""From a config that tests with a learned aggregator to one that trains it."""

import hashlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint, _load_checkpoint_to_model

from ..engine.checkpoint import check_checkpoint
from ..engine.cli import is_discard_type
from ..errors import MMDiscardError
from .feature_cache import GIBIBYTE, FeatureCache
from .training_hook import learner

#: what a config may say in ``aggregator_training``, and what holds otherwise: the paper's recipe
DEFAULTS = dict(
    search=dict(
        type='GreedySearch', budget=30, criterion=dict(type='AttentionCriterion', random=True)
    ),
    images=20000,
    epochs=5,
    batch_size=None,
    pipeline=None,
    optim_wrapper=dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-6, weight_decay=0.01)
    ),
    cache_gib=0.0,
)
METRICS = {'mmpretrain': 'auto', 'mmseg': 'mIoU'}


def training_config(cfg: Config) -> Config:
    """Turn ``cfg`` into one that trains the aggregator of its `SubsamplingSearchHook`.

    Everything that is about training the base model is replaced; data, metrics, loggers and the
    environment stay.

    Raises:
        MMDiscardError: if something is missing, or unknown.
    """
    settings = _settings(cfg)
    hook = _search_hook(cfg)
    if cfg.get('train_dataloader') is None:
        raise MMDiscardError('the config has no train_dataloader: nothing to train on')
    preprocessor = cfg.pop('data_preprocessor', None)
    if preprocessor is not None:  # the Runner would hand it to the learner
        cfg.model.setdefault('data_preprocessor', preprocessor)
    cfg.model = _learner(cfg.model, hook, settings)
    _set_data(cfg, settings)
    _set_schedule(cfg, settings)
    _set_hooks(cfg)
    cfg.pop('auto_scale_lr', None)
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.load_from = None
    return cfg


def use_amp(cfg: Config) -> None:
    """Train in mixed precision.

    Raises:
        MMDiscardError: without a GPU, where MMEngine has no mixed precision for training.
    """
    if get_device() == 'cpu':
        raise MMDiscardError('--amp needs a GPU: MMEngine trains in mixed precision on GPUs alone')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def load_base(runner: Runner, path: str) -> None:
    """Put the weights of the base model where they belong, and a cache of its features beside them.

    Raises:
        MMDiscardError: if the file is of another model.
    """
    model = learner(runner)
    checkpoint = _load_checkpoint(path, map_location='cpu')
    if not isinstance(checkpoint, Mapping):
        raise MMDiscardError(f'not a checkpoint: {path} holds a {type(checkpoint).__name__}')
    check_checkpoint(model.base, checkpoint)
    _load_checkpoint_to_model(model.base, checkpoint, strict=False)
    gib = runner.cfg.aggregator_training.cache_gib
    if gib:
        folder = f'{runner.work_dir}/feature_cache/rank{get_rank()}'
        key = _key(runner.cfg, model.base)
        model.store = FeatureCache(folder, key, int(gib * GIBIBYTE / get_world_size()))


def _settings(cfg: Config) -> ConfigDict:
    given = cfg.get('aggregator_training') or {}
    unknown = given.keys() - DEFAULTS.keys()
    if unknown:
        raise MMDiscardError(
            f'aggregator_training has no {", ".join(sorted(unknown))}; it takes '
            f'{", ".join(DEFAULTS)}'
        )
    settings = ConfigDict({**DEFAULTS, **given})
    for name in ('images', 'epochs'):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise MMDiscardError(f'aggregator_training.{name} has to be at least 1; got {value!r}')
    cfg.aggregator_training = settings
    return settings


def _search_hook(cfg: Config) -> ConfigDict:
    hooks = [
        hook
        for hook in cfg.get('custom_hooks') or []
        if str(hook.get('type')).endswith('SubsamplingSearchHook') and is_discard_type(hook)
    ]
    if len(hooks) != 1 or not hooks[0].get('aggregator'):
        raise MMDiscardError(
            'custom_hooks needs one mmdiscard.SubsamplingSearchHook with an aggregator that '
            'learns, as the configs in configs/learned have'
        )
    return hooks[0]


def _learner(model: ConfigDict, hook: ConfigDict, settings: ConfigDict) -> ConfigDict:
    aggregator = ConfigDict(hook.aggregator)
    aggregator.pop('init_cfg', None)  # where the result goes, not where training begins
    return ConfigDict(
        type='mmdiscard.AggregatorLearner',
        model=model,
        aggregator=aggregator,
        subsampling=hook.get('subsampling'),
        search=settings.search,
        test_search=hook.get('search'),
        max_rows=hook.get('max_rows'),
    )


def _set_data(cfg: Config, settings: ConfigDict) -> None:
    loader, seed = cfg.train_dataloader, _seed(cfg)
    if settings.batch_size:
        loader.batch_size = settings.batch_size
    if settings.pipeline:
        loader.dataset.pipeline = settings.pipeline
    loader.dataset = ConfigDict(
        type='mmdiscard.SeededSubset',
        dataset=loader.dataset,
        size=settings.images,
        seed=seed,
        at_least=loader.batch_size * get_world_size(),
    )
    loader.sampler = ConfigDict(type='DefaultSampler', shuffle=True, seed=seed)
    loader.pop('batch_sampler', None)
    # Workers that live on keep random numbers of earlier epochs, which a resumed run has not.
    loader.persistent_workers = False


def _set_schedule(cfg: Config, settings: ConfigDict) -> None:
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=settings.epochs, val_interval=1)
    cfg.optim_wrapper = settings.optim_wrapper
    cfg.param_scheduler = [
        dict(
            type='CosineAnnealingLR',
            T_max=settings.epochs,
            by_epoch=True,
            convert_to_iter_based=True,
        )
    ]


def _set_hooks(cfg: Config) -> None:
    validated = cfg.get('val_dataloader') is not None
    cfg.custom_hooks = [dict(type='mmdiscard.AggregatorTrainingHook')]
    cfg.setdefault('default_hooks', {})
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook',
        interval=1,
        by_epoch=True,
        max_keep_ckpts=2,  # MMEngine deletes the old one before it has written the new
        save_best=METRICS[cfg.default_scope] if validated else None,
        rule='greater' if validated else None,
    )
    cfg.default_hooks.sampler_seed = dict(type='DistSamplerSeedHook')
    logger = cfg.default_hooks.setdefault('logger', dict(type='LoggerHook'))
    logger.log_metric_by_epoch = True
    cfg.log_processor = dict(type='LogProcessor', by_epoch=True)
    if importlib.util.find_spec('tensorboard') is not None:
        _log_scalars(cfg)


def _log_scalars(cfg: Config) -> None:
    """TensorBoard beside whatever the config writes already."""
    visualizer = cfg.get('visualizer') or ConfigDict(type='Visualizer', vis_backends=[])
    backends = list(visualizer.get('vis_backends') or [])
    if not any('Tensorboard' in str(backend.get('type')) for backend in backends):
        backends.append(dict(type='TensorboardVisBackend'))
    visualizer.vis_backends = backends
    cfg.visualizer = visualizer


def _seed(cfg: Config) -> int:
    """The seed of the run; 0 where the config has none, so that a resumed run is the same run."""
    randomness = cfg.get('randomness') or ConfigDict()
    if randomness.get('seed') is None:
        randomness.seed = 0
    cfg.randomness = randomness
    return randomness.seed


def _key(cfg: Config, base: Any) -> str:
    """Of everything that features in a cache depend on."""
    digest = hashlib.sha256(cfg.model.to_dict().__repr__().encode())
    digest.update(repr((cfg.aggregator_training.to_dict(), cfg.randomness.to_dict())).encode())
    for name, value in base.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
