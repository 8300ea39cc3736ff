"""Configs with learned aggregation read, fit their models, train and refuse to test untrained."""

from pathlib import Path

import pytest
import torch
from integration.layouts import build_model
from mmengine.config import Config
from small_models import cls_samples, images, seg_samples

from mmdiscard import attach
from mmdiscard.errors import MMDiscardError
from mmdiscard.learned import AggregatorLearner
from mmdiscard.learned.training_config import training_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'learned').glob('*.py'))


def shrink(model):
    """The same architecture with fewer and narrower layers."""
    if model.backbone.get('depth') == 50:
        model.backbone.depth = 18
        model.get('decode_head', model.get('head')).in_channels = 512
        model.pop('auxiliary_head', None)
    if 'decode_head' in model:
        model.decode_head.channels = 32


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_trains_and_then_tests(path):
    cfg = Config.fromfile(path)
    shrink(cfg.model)
    settings = dict(cfg.custom_hooks[0])
    assert settings.pop('type') == 'mmdiscard.SubsamplingSearchHook'
    settings['subsampling'] = dict(settings['subsampling'], input_size=(64, 64))
    model, dense = build_model(cfg), cfg.default_scope == 'mmseg'
    with pytest.raises(MMDiscardError, match=rf'work_dirs/{path.stem}/.*train it first'):
        attach(model, **settings)

    options = dict(training_config(cfg).model)
    options.pop('type')
    options |= dict(model=model, subsampling=settings['subsampling'])
    budget = min(4, options['search']['budget'])
    options['search'] = dict(options['search'], budget=budget)
    learner = AggregatorLearner(**options)
    learner.train()
    samples = seg_samples(1) if dense else cls_samples(1)
    loss, _ = learner.parse_losses(learner.loss(images(1), samples))
    loss.backward()
    assert all(
        parameter.grad is not None for parameter in learner.parameters() if parameter.requires_grad
    )
    with torch.no_grad():
        assert learner(images(1)).isfinite().all()
