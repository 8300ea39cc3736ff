"""Images to calibrate on, drawn from data sets inside wrappers."""

import pytest
from mmengine.config import ConfigDict

from mmdiscard import MMDiscardError
from mmdiscard.engine.data_subset import CalibrationImages


def in_parts(dataset, first):
    """The same images as ``dataset``, as a ``RepeatDataset`` around a ``ConcatDataset``."""
    parts = [dict(dataset, indices=range(first)), dict(dataset, indices=range(first, 12))]
    return ConfigDict(
        type='RepeatDataset', times=3, dataset=dict(type='ConcatDataset', datasets=parts)
    )


def paths(images, cfg):
    drawn = images.drawn(cfg)
    return [drawn[i]['data_samples'].img_path for i in range(len(drawn))]


def test_images_of_several_data_sets_are_those_of_one(demo_model):
    cfg, _ = demo_model('classifier')
    images = CalibrationImages('train', 7)
    images.check(cfg)
    expected = paths(images, cfg)
    assert len(set(expected)) == 7
    cfg.train_dataloader.dataset = in_parts(cfg.train_dataloader.dataset, first=5)
    images.check(cfg)
    assert paths(images, cfg) == expected
    loader, count = images.loader(cfg)
    assert count == 7
    assert [s.img_path for batch in loader for s in batch['data_samples']] == expected


def test_data_sets_that_share_images_with_the_test_set_are_refused(demo_model):
    cfg, _ = demo_model('classifier')
    test = cfg.test_dataloader.dataset
    cfg.val_dataloader.dataset = ConfigDict(
        type='ConcatDataset', datasets=[cfg.val_dataloader.dataset, dict(test, test_mode=False)]
    )
    message = 'the val split of the config is its test split or has images of it, .*--split train'
    with pytest.raises(MMDiscardError, match=message):
        CalibrationImages('val', 7).check(cfg)


def test_a_pipeline_is_asked_for(demo_model):
    cfg, _ = demo_model('classifier')
    cfg.val_dataloader.dataset.pop('pipeline')
    with pytest.raises(MMDiscardError, match='of val_dataloader has no pipeline'):
        CalibrationImages('train', 7).check(cfg)
