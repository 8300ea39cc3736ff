"""What a training of an aggregator takes over from the config that tests with it."""

import pytest
from mmengine.config import Config, ConfigDict

from mmdiscard.learned.training_config import training_config


def config(**changes):
    dataset = dict(type='BaseDataset', pipeline=['train'])
    hook = dict(
        type='mmdiscard.SubsamplingSearchHook',
        search=dict(type='SpreadStates', budget=4),
        aggregator=dict(type='PhaseAggregator', init_cfg=dict(type='Pretrained', checkpoint='a')),
        max_rows=3,
        max_cache_bytes=0,
    )
    settings = dict(
        default_scope='mmseg',
        model=dict(type='EncoderDecoder'),
        train_dataloader=dict(batch_size=2, dataset=dataset),
        val_dataloader=dict(batch_size=2, dataset=dataset),
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        custom_hooks=[hook],
    )
    return training_config(Config(settings | changes))


def test_the_learner_has_the_options_of_the_hook():
    learner = config().model
    assert learner.aggregator == dict(type='PhaseAggregator')
    assert learner.test_search == dict(type='SpreadStates', budget=4)
    assert (learner.max_rows, learner.max_cache_bytes) == (3, 0)


@pytest.mark.parametrize(
    'evaluator, metric',
    [
        (dict(type='IoUMetric'), 'mIoU'),
        (dict(type='mmseg.IoUMetric', iou_metrics=['mDice', 'mIoU']), 'mDice'),
        ([dict(type='Other'), dict(type='IoUMetric', iou_metrics=['mFscore'])], 'mFscore'),
        (dict(type='Accuracy', topk=(1,)), 'auto'),
    ],
)
def test_the_best_checkpoint_is_chosen_by_a_metric_that_is_reported(evaluator, metric):
    assert config(val_evaluator=evaluator).default_hooks.checkpoint.save_best == metric


def test_without_validation_there_is_no_best_checkpoint():
    cfg = config(val_dataloader=None, val_evaluator=None)
    assert cfg.default_hooks.checkpoint.save_best is None


def test_every_data_set_gets_the_pipeline_and_mixing_is_left_out():
    one, two = (dict(type='BaseDataset', ann_file=name, pipeline=['train']) for name in 'ab')
    both = dict(type='ConcatDataset', datasets=[one, two])
    mixed = dict(type='MultiImageMixDataset', dataset=both, pipeline=['mosaic'])
    repeated = dict(type='RepeatDataset', times=2, dataset=mixed)
    loader = dict(batch_size=2, dataset=repeated)
    cfg = config(train_dataloader=loader, aggregator_training=dict(pipeline=['test']))
    found = cfg.train_dataloader.dataset
    assert (found.type, found.dataset.type, found.dataset.times) == (
        'mmdiscard.SeededSubset',
        'RepeatDataset',
        2,
    )
    parts = [dict(one, pipeline=['test']), dict(two, pipeline=['test'])]
    assert found.dataset.dataset == ConfigDict(type='ConcatDataset', datasets=parts)
    cfg = config(train_dataloader=loader)
    assert cfg.train_dataloader.dataset.dataset == ConfigDict(repeated)
