"""`tools/train_aggregator.py`: real trainings of the aggregator alone, interrupted and not."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import mmengine
import pytest
import torch
from integration.layouts import write_checkpoint
from mmengine.config import Config

from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes
from mmdiscard.engine import cli
from mmdiscard.errors import MMDiscardError
from mmdiscard.learned import SeededSubset
from mmdiscard.learned.base import ENTRY

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'train_aggregator.py'
CONFIG = """
_base_ = '{root}/configs/demo/{base}.py'
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(data_root='{data}'))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(data_root='{data}'))
test_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(data_root='{data}'))
custom_hooks = [dict(
    type='mmdiscard.SubsamplingSearchHook',
    subsampling=dict(groups='inner', input_size=(64, 64)),
    search=dict(type='GreedySearch', budget=4, criterion=dict(type='AttentionCriterion')),
    aggregator={aggregator})]
aggregator_training = dict(
    images=8,
    epochs=3,
    search=dict(
        type='GreedySearch', budget=6, criterion=dict(type='AttentionCriterion', random=True)),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)))
{more}
"""
CLASSIFIER = """
custom_imports = dict(imports=['mmdiscard'], allow_failed_imports=False)
model = dict(backbone=dict(stem_channels=4, base_channels=4), head=dict(in_channels=32))
"""
SEGMENTOR = """
custom_imports = dict(imports=['mmdiscard'], allow_failed_imports=False)
model = dict(data_preprocessor=dict(size=(64, 64)))
custom_hooks[0]['subsampling']['groups'] = [-1]
custom_hooks[0]['search'] = dict(type='SpreadStates', budget=3)
aggregator_training['search'] = dict(type='SpreadStates', budget=4)
"""


def load(path):
    spec = importlib.util.spec_from_file_location(f'mmdiscard_{path.stem}_tool', path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    return module


@pytest.fixture(scope='module')
def tool():
    return load(TOOL)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    params = DigitSceneParams(cls_images=(20, 4, 4), seg_images=(8, 4, 4), seg_size=64)
    return make_digit_scenes(tmp_path_factory.mktemp('data') / 'scenes', params)


@pytest.fixture(scope='module')
def write(tmp_path_factory, data):
    """Writes a config and, once, a checkpoint of its model."""
    folder = tmp_path_factory.mktemp('configs')

    def write(name, base='classifier', kind="dict(type='AttentionAggregator')", more=''):
        part = 'classification' if base == 'classifier' else 'segmentation'
        more = (CLASSIFIER if base == 'classifier' else SEGMENTOR) + more
        path = folder / f'{name}.py'
        path.write_text(
            CONFIG.format(root=ROOT, base=base, data=data / part, aggregator=kind, more=more)
        )
        checkpoint = folder / f'{base}.pth'
        if not checkpoint.exists():
            write_checkpoint(Config.fromfile(path), checkpoint)
        return str(path), str(checkpoint)

    return write


@pytest.fixture
def train(tool, monkeypatch, tmp_path):
    """Run the tool in this process; what its `aggregator.pth` holds."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)

    def train(config, checkpoint, *flags, work_dir='work'):
        tool.main([config, checkpoint, '--work-dir', str(tmp_path / work_dir), *flags])
        return torch.load(tmp_path / work_dir / 'aggregator.pth', weights_only=False)

    return train


def same(one, other):
    weights = one['state_dict']
    return weights.keys() == other['state_dict'].keys() and all(
        torch.equal(value, other['state_dict'][key]) for key, value in weights.items()
    )


def test_a_trained_aggregator_is_small_and_tests_with_any_budget(write, train, tmp_path):
    config, checkpoint = write('whole', more="aggregator_training['search']['budget'] = 30")
    found = train(config, checkpoint)
    assert (tmp_path / 'work' / 'aggregator.pth').stat().st_size < 20_000
    assert set(found) == {'state_dict', ENTRY, 'meta'}
    assert any(value.abs().max() > 1e-3 for value in found['state_dict'].values())
    assert not (tmp_path / 'work' / 'feature_cache').exists()
    trained = f"""dict(type='AttentionAggregator', init_cfg=dict(
        type='Pretrained', checkpoint='{tmp_path}/work/aggregator.pth'))"""
    for budget in (1, 4, 10, 30):
        config, _ = write(
            'test', kind=trained, more=f"custom_hooks[0]['search']['budget'] = {budget}"
        )
        metrics = test_once(config, checkpoint, tmp_path)
        assert 0 <= metrics['accuracy/top1'] <= 100


def test_once(config, checkpoint, tmp_path):
    out = tmp_path / 'metrics.json'
    options = ['--out', str(out), '--out-item', 'metrics', '--work-dir', str(tmp_path / 'test')]
    load(ROOT / 'tools' / 'test.py').main([config, checkpoint, *options])
    return mmengine.load(out)


test_once.__test__ = False


@pytest.mark.parametrize('kind', ['AttentionAggregator', 'PhaseAggregator'])
def test_segmentors_are_trained_too(kind, write, train):
    config, checkpoint = write(kind, 'segmentor_mit', f"dict(type='{kind}')")
    assert train(config, checkpoint, '--cfg-options', 'aggregator_training.epochs=1')


def test_an_interrupted_run_ends_as_an_uninterrupted_one(write, train, tmp_path):
    fixed = """
aggregator_training['epochs'] = 8
aggregator_training['cache_gib'] = 0.1
aggregator_training['pipeline'] = _base_.test_pipeline
"""
    config, checkpoint = write('interrupted', more=fixed)
    work_dir = tmp_path / 'cut'
    command = [sys.executable, '-W', 'ignore', str(TOOL), config, checkpoint]
    with subprocess.Popen(
        [*command, '--work-dir', str(work_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
        # Runs that a pipeline started may ignore SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if 'Epoch(train) [2]' in line or 'Saving checkpoint at 2' in line:
                process.send_signal(signal.SIGINT)
                break
        lines += process.stdout
    assert process.returncode == 1, ''.join(lines)
    assert '--resume goes on from there' in lines[-1]
    assert not (work_dir / 'aggregator.pth').exists()
    resumed = train(config, checkpoint, '--resume', work_dir='cut')
    whole = train(config, checkpoint, work_dir='whole')
    last = [torch.load(tmp_path / d / 'epoch_8.pth', weights_only=False) for d in ('cut', 'whole')]
    assert same(*last)
    assert same(resumed, whole) and resumed['meta']['epoch'] == whole['meta']['epoch']


def test_two_processes_train_one_aggregator(write, tmp_path):
    config, checkpoint = write('two')
    launcher = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--standalone']
    options = ['--launcher', 'pytorch', '--work-dir', str(tmp_path), '--cfg-options']
    options += ['aggregator_training.epochs=1', 'train_dataloader.batch_size=2']
    done = subprocess.run(
        [*launcher, '--nproc_per_node=2', str(TOOL), config, checkpoint, *options],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '[1][2/2]' in done.stdout or 'Epoch(val) [1]' in done.stdout
    assert (tmp_path / 'aggregator.pth').exists()


# ------------------------------------------------------------------------------------ bad input
@pytest.fixture
def fails(tool, monkeypatch, capsys, tmp_path):
    """The one line that a command line ends in."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)

    def fails(*argv) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda: tool.main([*map(str, argv), '--work-dir', str(tmp_path)]))
        assert ended.value.code == 2
        said = capsys.readouterr().err.splitlines()
        return next(line for line in said if line.startswith('mmdiscard: error: '))

    return fails


def test_mistakes_are_one_line(write, fails, tmp_path):
    config, checkpoint = write('plain')
    assert 'images has to be at least 1' in fails(config, checkpoint, '--images', 0)
    assert 'do not fill one batch of 4' in fails(config, checkpoint, '--images', 3)
    assert 'mixed precision on GPUs alone' in fails(config, checkpoint, '--amp')
    assert 'has no lr; it takes' in fails(*write('unknown', more="aggregator_training['lr'] = 1"))
    assert 'nothing to train' in fails(*write('average', kind="dict(type='AverageAggregator')"))
    assert 'needs one mmdiscard.Subs' in fails(*write('none', more='custom_hooks = []'))
    wide = "model['backbone']['base_channels'] = 8\nmodel['head']['in_channels'] = 64"
    assert 'does not belong to this model' in fails(write('wide', more=wide)[0], checkpoint)
    large = "aggregator_training['search']['budget'] = 65"
    assert 'more than the 64 states' in fails(*write('large', more=large))


def test_resuming_what_was_trained_otherwise_is_refused(write, train, fails, tmp_path):
    config, checkpoint = write('first')
    train(config, checkpoint, '--cfg-options', 'aggregator_training.epochs=1', work_dir='.')
    every = "custom_hooks[0]['subsampling']['groups'] = 'all'"
    assert 'made for 3 groups' in fails(*write('second', more=every), '--resume')


def test_a_subset_is_the_same_for_the_same_seed():
    numbers = list(range(50))
    one, same_seed, other = (SeededSubset(numbers, 10, seed) for seed in (1, 1, 2))
    assert list(one) == list(same_seed) != list(other)
    assert len(set(one)) == 10 and len(SeededSubset(numbers, 500)) == 50
    with pytest.raises(MMDiscardError, match='do not fill one batch'):
        SeededSubset([], 10)
