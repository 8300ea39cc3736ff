"""The demo's models on a handful of the demo's images."""

from pathlib import Path

import pytest
from integration.layouts import write_checkpoint

from mmdiscard.datasets import DigitSceneParams, make_digit_scenes
from mmdiscard.engine import launch

ROOT = Path(__file__).parents[2]
KINDS = {'classifier': 'classification', 'segmentor_stride8': 'segmentation'}


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """A folder with a few images of each split."""
    params = DigitSceneParams(seg_images=(9, 4, 3), cls_images=(12, 4, 20))
    return make_digit_scenes(tmp_path_factory.mktemp('scenes') / 'data', params)


@pytest.fixture(scope='session')
def demo_model(scenes, tmp_path_factory):
    """By name of a demo model: its config, reading the scenes, and random weights."""

    def make(name, variant=''):
        path = ROOT / f'configs/demo/{name}{variant}.py'
        cfg = launch.read_config(str(path))
        for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[field].dataset.data_root = str(scenes / KINDS[name])
            cfg[field].update(num_workers=0, batch_size=2)
        launch.prepare_dataloaders(cfg)
        cfg.log_level = 'WARNING'
        cfg.work_dir = str(tmp_path_factory.mktemp('work'))
        checkpoint = write_checkpoint(cfg, Path(cfg.work_dir) / 'model.pth')
        return cfg, str(checkpoint)

    return make
