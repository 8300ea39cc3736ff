"""Fixtures of `tests/` and `benchmarks/tests/`."""

from pathlib import Path

import mmengine.config.config
import pytest
import torch
import yapf.yapflib.yapf_api
from hypothesis import settings
from integration.layouts import write_checkpoint
from mmengine.registry import DefaultScope

from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes
from mmdiscard.engine.config import prepare_dataloaders, read_config

ROOT = Path(__file__).parent
KINDS = {'classifier': 'classification', 'segmentor_stride8': 'segmentation'}


# The same examples in every run: a test that fails, fails for everybody.
settings.register_profile('mmdiscard', derandomize=True)
settings.load_profile('mmdiscard')


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """Small tensors are slower with more, and test processes share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope='session', autouse=True)
def unformatted_logs():
    """Runners print their config; making that pretty takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (yapf.yapflib.yapf_api, mmengine.config.config):
            patch.setattr(module, 'FormatCode', lambda text, **style: (text, False), raising=False)
        yield


@pytest.fixture(scope='module', autouse=True)
def no_scope_of_another_module():
    """What a module's own fixtures build is built before `fresh_globals` comes to a test."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def fresh_globals():
    """Tests in any order: the same random numbers, and no scope that another test left behind."""
    torch.manual_seed(0)
    DefaultScope._instance_dict.clear()


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
        cfg = read_config(str(path))
        for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[field].dataset.data_root = str(scenes / KINDS[name])
            cfg[field].update(num_workers=0, batch_size=2)
        prepare_dataloaders(cfg)
        cfg.log_level = 'WARNING'
        cfg.work_dir = str(tmp_path_factory.mktemp('work'))
        checkpoint = write_checkpoint(cfg, Path(cfg.work_dir) / 'model.pth')
        return cfg, str(checkpoint)

    return make
