"""`tools/test.py`: flags of both packages, on and off, and errors before any data is read."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from integration.layouts import write_checkpoint, write_imagenet
from mmengine.config import Config

from mmdiscard import test as tool
from mmdiscard.engine import cli, launcher
from mmdiscard.engine.checkpoint import check_checkpoint_file

ROOT = Path(__file__).parents[2]
SEGFORMER = ROOT / 'configs/ade20k/segformer_mit-b0_spread-b4_8xb2-160k_ade20k-512x512.py'
SMALL_RESNET = """
_base_ = '{base}'
model = dict(
    backbone=dict(stem_channels=4, base_channels=4), head=dict(in_channels=32, num_classes=1000))
test_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(data_root='{data}', pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='CenterCrop', crop_size=64),
    dict(type='PackInputs')]))
{more}
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('cli')


@pytest.fixture(scope='module')
def data(folder):
    return write_imagenet(folder / 'imagenet')


@pytest.fixture(scope='module')
def write_config(folder, data):
    def write(name: str, more: str = '') -> str:
        path = folder / f'{name}.py'
        base = ROOT / 'configs/imagenet/resnet18_greedy-b10_8xb32_in1k.py'
        path.write_text(SMALL_RESNET.format(base=base, data=data, more=more))
        return str(path)

    return write


@pytest.fixture(scope='module')
def config(write_config):
    return write_config('small_resnet')


@pytest.fixture(scope='module')
def checkpoint(config, folder):
    return str(write_checkpoint(Config.fromfile(config), folder / 'model.pth'))


@pytest.fixture
def make(monkeypatch):
    """The config that a command line leads to."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    return lambda *argv: tool.make_config(tool.parse_args([str(arg) for arg in argv]))


@pytest.fixture
def fails(monkeypatch, capsys):
    """The one line that a command line ends in."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)

    def fails(*argv) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda: tool.main([str(arg) for arg in argv]))
        assert ended.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        said = [line for line in lines if line.startswith('mmdiscard: error: ')]
        assert len(said) == 1
        assert said[0] == lines[-1]
        return said[0]

    return fails


# --------------------------------------------------------------------------------------- flags
@pytest.mark.parametrize('package', ['mmpretrain', 'mmseg'])
def test_knows_every_flag_of_the_packages_own_tool(package):
    source = Path(importlib.util.find_spec(package).origin).parent / '.mim/tools/test.py'
    if not source.exists():
        pytest.skip(f'{package} is installed without its tools')
    words = source.read_text().replace(',', ' ').replace("'", ' ').split()
    theirs = {word for word in words if word.startswith('--') and word.strip('-')}
    ours = Path(tool.__file__).read_text() + Path(cli.__file__).read_text()
    assert {flag for flag in theirs if f"'{flag}'" not in ours} == set()


def test_plain_drops_hook_and_tta_model(make, write_config, checkpoint):
    more = "tta_model = dict(type='mmdiscard.DiscardClsTTA')\n"
    more += "custom_hooks = [dict(type='EMAHook'), dict(type='mmdiscard.SubsamplingSearchHook')]"
    config = write_config('with_other_hook', more)
    cfg = make(config, checkpoint, '--plain', '--tta')
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']
    assert cfg.model.type == 'mmpretrain.AverageClsScoreTTA'
    assert cfg.model.module.type == 'ImageClassifier'


def test_plain_leaves_a_config_without_hook_alone(make, write_config, checkpoint):
    cfg = make(write_config('no_hook', 'custom_hooks = None'), checkpoint, '--plain')
    assert cfg.custom_hooks == []


def test_tta_mirrors_where_the_config_names_no_views(make, config, checkpoint):
    cfg = make(config, checkpoint, '--tta')
    last = cfg.test_dataloader.dataset.pipeline[-1]
    assert last.type == 'TestTimeAug'
    assert [view.prob for view in last.transforms[0]] == [0.0, 1.0]
    assert cfg.custom_hooks[0].type == 'mmdiscard.SubsamplingSearchHook'


NESTED = """
one = dict(type='ImageNet', data_root='{data}', split='val', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='CenterCrop', crop_size=64), dict(type='PackInputs')])
other = dict(one, pipeline=[
    dict(type='LoadImageFromFile'), dict(type='CenterCrop', crop_size=48), dict(type='PackInputs')])
test_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, dataset=dict(
    type='ConcatDataset', datasets=[one, other])))
custom_hooks = [dict(
    type='mmdiscard.SubsamplingSearchHook', search=dict(type='SpreadStates', budget=2))]
"""


def test_tta_reaches_every_data_set_inside_wrappers(
    write_config, checkpoint, folder, data, monkeypatch
):
    monkeypatch.setenv('LOCAL_RANK', '0')
    config = write_config('nested', NESTED.format(data=data))
    views = ['--tta', '--work-dir', folder / 'nested', '--out-item', 'metrics']
    options = ['--cfg-options', 'test_dataloader.batch_size=1', 'experiment_name=nested']
    argv = [config, checkpoint, *views, '--out', folder / 'nested.json', *options]
    tool.main([str(arg) for arg in argv])
    (log,) = (folder / 'nested').glob('*/*.log')
    # Twice four images in each of two data sets, in two views each.
    assert 'images: 16, forward passes without mmdiscard: 32' in log.read_text()


def test_tta_without_a_pipeline_to_replace(fails, write_config, checkpoint):
    more = "test_dataloader = dict(dataset=dict(_delete_=True, type='CIFAR10'))"
    said = fails(write_config('no_pipeline', more), checkpoint, '--tta')
    assert '--tta replaces the pipeline of the test set, and CIFAR10 has none' in said


def test_options_come_before_flags_and_reach_into_lists(make, config, checkpoint):
    options = ['custom_hooks.0.search.budget=3', 'model.backbone.base_channels=8', 'work_dir=a']
    cfg = make(config, checkpoint, '--tta', '--work-dir', 'b', '--cfg-options', *options)
    assert cfg.custom_hooks[0].search.budget == 3
    assert cfg.model.module.backbone.base_channels == 8
    assert cfg.work_dir == 'b'


def test_work_dir_defaults_to_the_config_name(make, config, checkpoint):
    assert make(config, checkpoint).work_dir == 'work_dirs/small_resnet'


@pytest.mark.parametrize('workers', [0, 2])
def test_worker_options_only_with_workers(make, config, checkpoint, workers):
    options = ['persistent_workers=True', 'prefetch_factor=4', f'num_workers={workers}']
    options = [f'test_dataloader.{option}' for option in options]
    loader = make(config, checkpoint, '--no-pin-memory', '--cfg-options', *options).test_dataloader
    assert loader.persistent_workers is bool(workers)
    assert ('prefetch_factor' in loader) is bool(workers)
    assert loader.pin_memory is False
    assert loader.collate_fn.type == 'default_collate'


def test_amp_and_show_dir_of_a_classifier(make, config, checkpoint):
    cfg = make(config, checkpoint, '--amp', '--show-dir', 'painted', '--interval', '5')
    assert cfg.test_cfg.fp16 is True
    hook = cfg.default_hooks.visualization
    assert (hook.enable, hook.show, hook.out_dir, hook.interval) == (True, False, 'painted', 5)


def test_outputs_of_a_segmentor(make, checkpoint, data):
    options = ['--cfg-options', f'test_dataloader.dataset.data_root={data}']
    cfg = make(SEGFORMER, checkpoint, '--out', 'maps', '--show-dir', 'painted', *options)
    assert cfg.test_evaluator.output_dir == 'maps'
    assert cfg.default_hooks.visualization.draw is True
    assert cfg.visualizer.save_dir == 'painted'
    assert 'collate_fn' not in cfg.test_dataloader
    cfg = make(SEGFORMER, checkpoint, '--out', 'metrics.json', '--out-item', 'metrics', *options)
    assert 'output_dir' not in cfg.test_evaluator


def test_urls_are_left_to_mmengine():
    for url in (
        'https://host/a.pth',
        'open-mmlab://resnet50',
        's3://bucket/a.pth',
        'petrel:s3://a',
    ):
        check_checkpoint_file(url)


# -------------------------------------------------------------------------------------- errors
def test_config_missing(fails, checkpoint):
    assert 'config not found: absent.py' in fails('absent.py', checkpoint)


def test_config_of_a_package_missing(fails, checkpoint):
    said = fails('mmpretrain::resnet/resnet18_8xb32_in1k.yp', checkpoint)
    assert 'similar names: mmpretrain::resnet/resnet18_8xb32_in1k.py' in said
    assert "no package 'mmnot' with configs" in fails('mmnot::resnet/a.py', checkpoint)


def test_config_broken(fails, folder, checkpoint):
    path = folder / 'broken.py'
    path.write_text('model = dict(\n')
    assert 'cannot read' in fails(path, checkpoint)


def test_config_without_package(fails, folder, checkpoint):
    path = folder / 'no_scope.py'
    path.write_text('model = dict()\n')
    assert "has to be 'mmpretrain' or 'mmseg'" in fails(path, checkpoint)


def test_config_without_test_set(fails, write_config, checkpoint):
    config = write_config('no_test_set', 'test_evaluator = None')
    assert 'has no test_evaluator' in fails(config, checkpoint)


def test_options_that_do_not_fit(fails, config, checkpoint):
    said = fails(config, checkpoint, '--cfg-options', 'custom_hooks.7.search.budget=3')
    assert '--cfg-options do not fit' in said
    said = fails(config, checkpoint, '--cfg-options', 'custom_hooks.0.serch.budget=3')
    assert "has no option 'serch'; did you mean 'search'?" in said


def test_package_of_the_config_missing(fails, checkpoint, monkeypatch):
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda package: False)
    said = fails(SEGFORMER, checkpoint)
    assert 'not installed' in said
    assert 'Install it: pip install ' in said


def test_config_would_be_overwritten(fails, config, checkpoint, folder):
    assert 'would overwrite the config' in fails(config, checkpoint, '--work-dir', folder)


def test_data_missing(fails, config, checkpoint):
    options = ['--cfg-options', 'test_dataloader.dataset.data_root=nowhere']
    assert 'data folder not found: nowhere' in fails(config, checkpoint, *options)


def test_checkpoint_missing(fails, config, folder):
    assert 'checkpoint not found' in fails(config, folder / 'absent.pth')
    assert 'checkpoint is a folder' in fails(config, folder)


def test_checkpoint_is_something_else(fails, config, checkpoint, folder):
    path = folder / 'text.pth'
    path.write_text('<html>404</html>')
    assert 'not a checkpoint' in fails(config, path)
    path.write_bytes(Path(checkpoint).read_bytes()[:-1000])
    assert 'cut short' in fails(config, path)


@pytest.mark.parametrize('flags', [[], ['--plain']])
def test_checkpoint_of_another_model(fails, config, checkpoint, folder, flags):
    options = ['--work-dir', folder / 'work', '--cfg-options', 'model.backbone.base_channels=8']
    options += ['model.head.in_channels=64', f'experiment_name=other{len(flags)}']
    said = fails(config, checkpoint, *flags, *options)
    assert 'does not belong to this model' in said


def test_checkpoint_without_weights(fails, config, folder):
    torch.save([1, 2], folder / 'list.pth')
    options = ['--work-dir', folder / 'work', '--cfg-options', 'experiment_name=list']
    assert 'holds a list' in fails(config, folder / 'list.pth', *options)


@pytest.mark.parametrize('name', ['slurm', 'mpi', 'pytorch'])
def test_launcher_that_cannot_work(fails, config, checkpoint, name, monkeypatch):
    monkeypatch.setattr(launcher, 'on_cpu', lambda: True)
    monkeypatch.delenv('RANK', raising=False)
    assert 'dist_test.sh' in fails(config, checkpoint, '--launcher', name)


def test_out_item_needs_out(capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['a.py', 'a.pth', '--out-item', 'metrics'])
    assert '--out-item needs --out' in capsys.readouterr().err


def test_error_of_the_real_command_is_one_line(checkpoint):
    command = [sys.executable, '-m', 'mmdiscard.test', 'absent.py', checkpoint]
    environment = os.environ | {'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert 'mmdiscard: error: config not found: absent.py' in done.stderr
    assert 'Traceback' not in done.stderr


def test_positions_in_hooks_that_a_config_has_not(fails, checkpoint, folder):
    path = folder / 'without_hooks.py'
    path.write_text("default_scope = 'mmpretrain'\n")
    line = fails(path, checkpoint, '--cfg-options', 'custom_hooks.0.search.budget=2')
    assert 'no list custom_hooks' in line


@pytest.mark.parametrize('folder_name', ['a_file', 'a_file/below'])
def test_a_work_dir_that_cannot_be_made(fails, config, checkpoint, folder, folder_name):
    (folder / 'a_file').touch()
    assert 'a_file' in fails(config, checkpoint, '--work-dir', folder / folder_name)


def test_a_format_that_cannot_be_written(fails, config, checkpoint):
    assert 'end with .pkl' in fails(config, checkpoint, '--out', 'scores.txt')
    metrics = ('--out-item', 'metrics', '--out', 'metrics.txt')
    assert 'end with .json' in fails(config, checkpoint, *metrics)
