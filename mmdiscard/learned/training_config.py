"""Training configs: from a config that tests with a learned aggregator to one that trains it."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint, _load_checkpoint_to_model
from torch import nn

from ..engine.checkpoint import check_checkpoint
from ..engine.load_runner import digest, search_settings
from ..errors import MMDiscardError
from ..utils import MIXING, innermost_datasets, is_whole, type_name, without_wrappers
from .feature_cache import GIBIBYTE, FeatureCache
from .training_hook import learner_of

#: options of ``aggregator_training`` in a config; the defaults are the paper's recipe
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


def training_config(cfg: Config) -> Config:
    """Change ``cfg`` into one that trains the aggregator of its `SubsamplingSearchHook`.

    Settings for the training of the base model are replaced; data, metrics, loggers and environment
    are kept.

    Returns:
        ``cfg``, which was changed in place.

    Raises:
        MMDiscardError: if ``cfg`` has no training data, no hook with a learned aggregator, or wrong
            options of ``aggregator_training``.
    """
    settings = _settings(cfg)
    if cfg.get('train_dataloader') is None:
        raise MMDiscardError('the config has no train_dataloader: nothing to train on')
    preprocessor = cfg.pop('data_preprocessor', None)
    if preprocessor is not None:  # the Runner would pass it to the learner instead
        cfg.model.setdefault('data_preprocessor', preprocessor)
    cfg.model = _learner_config(cfg, settings)
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
        MMDiscardError: without a GPU, which MMEngine needs for it.
    """
    if get_device() == 'cpu':
        raise MMDiscardError('--amp needs a GPU: MMEngine trains in mixed precision on GPUs alone')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def load_base(runner: Runner, path: str) -> None:
    """Load a checkpoint into the frozen base model, and set up the feature cache if one is wanted.

    The runner is that of a config that `training_config` made.

    Raises:
        MMDiscardError: if the checkpoint does not belong to the model.
    """
    model = learner_of(runner)
    checkpoint = _load_checkpoint(path, map_location='cpu')
    if not isinstance(checkpoint, Mapping):
        raise MMDiscardError(f'not a checkpoint: {path} holds a {type(checkpoint).__name__}')
    check_checkpoint(model.base, checkpoint)
    _load_checkpoint_to_model(model.base, checkpoint, strict=False)
    gib = runner.cfg.aggregator_training.cache_gib
    if gib:
        folder = f'{runner.work_dir}/feature_cache/rank{get_rank()}'
        key = _cache_key(runner.cfg, model.base)
        model.cache = FeatureCache(folder, key, int(gib * GIBIBYTE / get_world_size()))


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
        if not is_whole(settings[name]):
            raise MMDiscardError(
                f'aggregator_training.{name} has to be at least 1; got {settings[name]!r}'
            )
    cfg.aggregator_training = settings
    return settings


def _learner_config(cfg: Config, settings: ConfigDict) -> ConfigDict:
    attached = search_settings(cfg)
    if not attached.get('aggregator'):
        raise MMDiscardError(
            'the SubsamplingSearchHook of the config needs an aggregator that learns, as the '
            'configs in configs/learned have'
        )
    # `init_cfg` names the file that training writes.
    attached['aggregator'].pop('init_cfg', None)
    test_search = attached.pop('search', None)
    return ConfigDict(
        attached,
        type='mmdiscard.AggregatorLearner',
        model=cfg.model,
        search=settings.search,
        test_search=test_search,
    )


def _set_data(cfg: Config, settings: ConfigDict) -> None:
    loader, seed = cfg.train_dataloader, _seed(cfg)
    if settings.batch_size:
        loader.batch_size = settings.batch_size
    if settings.pipeline:
        loader.dataset = without_wrappers(loader.dataset, MIXING)
        for dataset in innermost_datasets(loader.dataset):
            dataset.pipeline = settings.pipeline
    loader.dataset = ConfigDict(
        type='mmdiscard.SeededSubset',
        dataset=loader.dataset,
        size=settings.images,
        seed=seed,
        at_least=loader.batch_size * get_world_size(),
    )
    loader.sampler = ConfigDict(type='DefaultSampler', shuffle=True, seed=seed)
    loader.pop('batch_sampler', None)
    # Persistent workers would keep random state that a resumed run does not have.
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
        max_keep_ckpts=2,  # MMEngine deletes an old one before the new one is written
        save_best=_best_metric(cfg.val_evaluator) if validated else None,
        rule='greater' if validated else None,
    )
    cfg.default_hooks.sampler_seed = dict(type='DistSamplerSeedHook')
    logger = cfg.default_hooks.setdefault('logger', ConfigDict(type='LoggerHook'))
    logger.log_metric_by_epoch = True
    cfg.log_processor = dict(type='LogProcessor', by_epoch=True)
    if importlib.util.find_spec('tensorboard') is not None:
        _log_scalars(cfg)


def _best_metric(evaluator: Any) -> str:
    """Metric that selects the best checkpoint: that of `IoUMetric`, else the first reported."""
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    for metric in metrics:
        if type_name(metric) == 'IoUMetric':  # which reports aAcc first
            return metric.get('iou_metrics', ['mIoU'])[0]
    return 'auto'


def _log_scalars(cfg: Config) -> None:
    """Add TensorBoard to the visualization backends of the config."""
    visualizer = cfg.get('visualizer') or ConfigDict(type='Visualizer', vis_backends=[])
    backends = list(visualizer.get('vis_backends') or [])
    if not any('Tensorboard' in str(backend.get('type')) for backend in backends):
        backends.append(dict(type='TensorboardVisBackend'))
    visualizer.vis_backends = backends
    cfg.visualizer = visualizer


def _seed(cfg: Config) -> int:
    """Seed of the run; 0 if the config has none, because a resumed run needs the same seed."""
    randomness = cfg.get('randomness') or ConfigDict()
    if randomness.get('seed') is None:
        randomness.seed = 0
    cfg.randomness = randomness
    return randomness.seed


def _cache_key(cfg: Config, base: nn.Module) -> str:
    """Text that changes with everything that features depend on besides the images."""
    settings = (cfg.model, cfg.aggregator_training, cfg.randomness)
    return repr([part.to_dict() for part in settings] + [digest(base)])
