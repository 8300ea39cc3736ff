"""`mmdiscard.train_aggregator`: real trainings of the aggregator alone, interrupted and not."""

import multiprocessing
import os
from pathlib import Path

import mmengine
import pytest
import torch
from integration.layouts import write_checkpoint
from mmengine.config import Config
from torch import distributed

from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes
from mmdiscard import test as test_tool
from mmdiscard import train_aggregator as tool
from mmdiscard.engine import cli
from mmdiscard.learned import AggregatorLearner
from mmdiscard.learned.learned_aggregator import ENTRY

ROOT = Path(__file__).parents[2]
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
def train(monkeypatch, tmp_path):
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
    found = train(config, checkpoint, '--cfg-options', 'aggregator_training.epochs=1')
    assert (tmp_path / 'work' / 'aggregator.pth').stat().st_size < 20_000
    assert set(found) == {'state_dict', ENTRY, 'meta'}
    assert any(value.abs().max() > 1e-3 for value in found['state_dict'].values())
    assert not (tmp_path / 'work' / 'feature_cache').exists()
    trained = f"""dict(type='AttentionAggregator', init_cfg=dict(
        type='Pretrained', checkpoint='{tmp_path}/work/aggregator.pth'))"""
    for budget in (1, 30):
        config, _ = write(
            'test', kind=trained, more=f"custom_hooks[0]['search']['budget'] = {budget}"
        )
        metrics = test_once(config, checkpoint, tmp_path)
        assert 0 <= metrics['accuracy/top1'] <= 100


def test_once(config, checkpoint, tmp_path):
    out = tmp_path / 'metrics.json'
    options = ['--out', str(out), '--out-item', 'metrics', '--work-dir', str(tmp_path / 'test')]
    test_tool.main([config, checkpoint, *options])
    return mmengine.load(out)


test_once.__test__ = False


@pytest.mark.parametrize('kind', ['AttentionAggregator', 'PhaseAggregator'])
def test_segmentors_are_trained_too(kind, write, train):
    config, checkpoint = write(kind, 'segmentor_mit', f"dict(type='{kind}')")
    assert train(config, checkpoint, '--cfg-options', 'aggregator_training.epochs=1')


FIXED = """
aggregator_training['pipeline'] = _base_.test_pipeline
"""


def test_an_interrupted_run_ends_as_an_uninterrupted_one(write, train, tmp_path, monkeypatch):
    config, checkpoint = write('cut', more=FIXED + "aggregator_training['cache_gib'] = 0.1")
    loss, calls = AggregatorLearner.loss, []

    def interrupted(self, *args):
        calls.append(self.cache.hits)
        if len(calls) == 4:  # the second of two batches of the second epoch
            raise KeyboardInterrupt
        return loss(self, *args)

    monkeypatch.setattr(AggregatorLearner, 'loss', interrupted)
    with pytest.raises(SystemExit, match='--resume goes on from there'):
        train(config, checkpoint, work_dir='cut')
    assert not (tmp_path / 'cut' / 'aggregator.pth').exists()
    resumed = train(config, checkpoint, '--resume', work_dir='cut')
    assert calls == [0, 0, 0, 4, 0, 4, 0, 4]  # epochs 2 and 3 read what epoch 1 cached
    whole = train(config, checkpoint, work_dir='whole')
    last = [torch.load(tmp_path / d / 'epoch_3.pth', weights_only=False) for d in ('cut', 'whole')]
    assert same(*last)
    assert same(resumed, whole) and resumed['meta']['epoch'] == whole['meta']['epoch']


def test_two_processes_train_what_one_does(write, train, tmp_path):
    config, checkpoint = write('two', more=FIXED)
    # Plain gradient descent: AdamW turns a gradient that is nothing but rounding into a full step.
    options = ['--cfg-options', 'aggregator_training.epochs=2']
    options += [
        f'aggregator_training.optim_wrapper.optimizer.{option}' for option in ('type=SGD', 'lr=1.0')
    ]
    one = train(config, checkpoint, *options)['state_dict']

    def process(rank):
        os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
        meeting = f'file://{tmp_path}/meeting'
        distributed.init_process_group('gloo', init_method=meeting, rank=rank, world_size=2)
        flags = ['--work-dir', str(tmp_path / 'two'), '--launcher', 'pytorch']
        tool.main([config, checkpoint, *flags, *options, 'train_dataloader.batch_size=2'])

    # Forked, so that they need not import everything again.
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=process, args=(rank,)) for rank in (0, 1)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert [each.exitcode for each in processes] == [0, 0]
    two = torch.load(tmp_path / 'two' / 'aggregator.pth', weights_only=False)['state_dict']
    assert any(value.abs().max() > 1e-3 for key, value in one.items() if key.endswith('scale'))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-4)


def test_all_data_sets_in_wrappers_are_trained_on(write, train, tmp_path, monkeypatch):
    config, checkpoint = write('wrapped', more=FIXED)
    cfg = Config.fromfile(config)
    part = cfg.train_dataloader.dataset
    both = dict(type='ConcatDataset', datasets=[part, dict(part, data_prefix='val')])
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=both)
    cfg.aggregator_training.update(images=24, epochs=1)
    cfg.dump(tmp_path / 'wrapped.py')
    loss, trained = AggregatorLearner.loss, []

    def watched(self, inputs, samples):
        trained.extend(Path(sample.img_path).parts[-3] for sample in samples)
        assert inputs.shape[2:] == (64, 64)  # not cropped, as training images are
        return loss(self, inputs, samples)

    monkeypatch.setattr(AggregatorLearner, 'loss', watched)
    train(str(tmp_path / 'wrapped.py'), checkpoint)
    assert [trained.count(split) for split in ('train', 'val')] == [20, 4]


# ------------------------------------------------------------------------------------ bad input
@pytest.fixture
def fails(monkeypatch, capsys, tmp_path):
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
    assert 'has no SubsamplingSearchHook' in fails(*write('none', more='custom_hooks = []'))
    assert 'needs an aggregator that learns' in fails(*write('no_aggregator', kind='None'))
    wide = "model['backbone']['base_channels'] = 8\nmodel['head']['in_channels'] = 64"
    assert 'does not belong to this model' in fails(write('wide', more=wide)[0], checkpoint)
    large = "aggregator_training['search']['budget'] = 65"
    assert 'more than the 64 states' in fails(*write('large', more=large))


def test_resuming_what_was_trained_otherwise_is_refused(write, train, fails, tmp_path):
    config, checkpoint = write('first')
    train(config, checkpoint, '--cfg-options', 'aggregator_training.epochs=1', work_dir='.')
    every = "custom_hooks[0]['subsampling']['groups'] = 'all'"
    assert 'made for 3 groups' in fails(*write('second', more=every), '--resume')
