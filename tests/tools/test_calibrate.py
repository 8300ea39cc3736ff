"""`mmdiscard.calibrate` on real scenes with real Runners: choosing, resuming, sharing, refusing."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from integration.layouts import write_checkpoint
from mmengine.config import Config
from mmengine.runner import Runner
from torch import distributed
from torch.nn import functional as F

import mmdiscard
from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes
from mmdiscard import calibrate as tool
from mmdiscard.calibration.state_calibration import StateCalibration
from mmdiscard.engine import cli
from mmdiscard.engine.config import make_plain

ROOT = Path(__file__).parents[2]
SCENES = DigitSceneParams(
    seg_images=(5, 7, 3), seg_size=48, seg_glyph_px=(14.0, 20.0), cls_images=(10, 10, 10)
)
CONFIG = """
_base_ = '{root}/configs/demo/segmentor_stride8_spread-b4.py'
model = dict(
    backbone=dict(stem_channels=4, base_channels=4), decode_head=dict(in_channels=16, channels=8))
_loader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}/segmentation'))
train_dataloader = _loader
val_dataloader = dict(_loader, batch_size=3)
test_dataloader = dict(_loader, batch_size=3)
{more}
"""
GREEDY = """
custom_hooks = [dict(
    type='mmdiscard.SubsamplingSearchHook',
    subsampling=dict(groups='all'),
    search=dict(type='GreedySearch', budget=7, criterion=dict(type='EntropyCriterion')))]
"""
ON_VAL = """
test_dataloader = dict(test_dataloader, dataset=dict(
    test_dataloader['dataset'],
    data_prefix=dict(img_path='images/val', seg_map_path='labels/val')))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('calibrate')


@pytest.fixture(scope='module')
def write_config(folder):
    data = make_digit_scenes(folder / 'scenes', SCENES)

    def write(name: str, more: str = '') -> str:
        path = folder / f'{name}.py'
        path.write_text(CONFIG.format(root=ROOT, data=data, more=more))
        return str(path)

    return write


@pytest.fixture(scope='module')
def config(write_config):
    return write_config('small_stride8')


@pytest.fixture(scope='module')
def checkpoint(config, folder):
    return str(write_checkpoint(Config.fromfile(config), folder / 'model.pth'))


@pytest.fixture
def calibrate(tmp_path, monkeypatch):
    """Runs the tool in this process; what it wrote."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)

    def calibrate(*argv, out='out.json'):
        flags = ['--work-dir', str(tmp_path / 'work'), '--out', str(tmp_path / out)]
        tool.main([*map(str, argv), *flags])
        return json.loads((tmp_path / out).read_text())

    return calibrate


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """The one line that a command line ends in."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)

    def fails(*argv) -> str:
        with pytest.raises(SystemExit) as ended:
            flags = ['--work-dir', str(tmp_path / 'work')]
            cli.run(lambda: tool.main([*map(str, argv), *flags]))
        assert ended.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return fails


def loss_on_val(config, checkpoint, states, images):
    """The mean pixel cross entropy, from a model that is attached with those states."""
    cfg = Config.fromfile(config)
    cfg.work_dir = str(Path(checkpoint).parent / 'loss')
    cfg.load_from = checkpoint
    settings = cfg.custom_hooks[0].to_dict() | dict(search=dict(type='FixedStates', states=states))
    settings.pop('type')
    make_plain(cfg)
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    runner.model.eval()
    losses = []
    with torch.no_grad(), mmdiscard.attach(runner.model, **settings) as ensemble:
        for batch in runner.build_dataloader(cfg.val_dataloader):
            data = runner.model.data_preprocessor(batch, False)
            labels = torch.cat([sample.gt_sem_seg.data for sample in data['data_samples']])
            height, width = labels.shape[1:]  # the images are padded, below and on the right
            logits = ensemble.predict(data['inputs'])[..., :height, :width]
            losses += F.cross_entropy(logits, labels.long(), reduction='none').flatten(1).mean(1)
    return float(torch.stack(losses)[images].mean())


# --------------------------------------------------------------------------------------- states
def test_states_are_chosen_whose_loss_is_that_of_real_predictions(calibrate, config, checkpoint):
    found = calibrate(config, checkpoint, '--budget', 3, '--images', 99, '--candidates', 4)
    states, rounds = found['states'], found['rounds']
    assert states[0] == [0, 0] and 2 <= len(states) <= 3 and len(rounds) == len(states)
    for count in range(1, len(states) + 1):
        expected = loss_on_val(config, checkpoint, states[:count], slice(None))
        assert rounds[count - 1]['loss'] == pytest.approx(expected, rel=1e-5)
    assert found['calibrated']['images'] == 7 and found['calibrated']['split'] == 'val'
    losses = [entry['loss'] for entry in rounds]
    assert losses == sorted(losses, reverse=True)


def test_the_file_is_what_a_test_run_uses(calibrate, config, checkpoint, tmp_path):
    options = ['--images', 4, '--candidates', 6, '--split', 'train']
    found = calibrate(config, checkpoint, '--cost', 2.5, *options)
    assert found['rounds'][-1]['cost'] <= 2.5 and found['calibrated']['images'] == 4
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.load_from = str(tmp_path), checkpoint
    search = dict(type='FixedStates', file=str(tmp_path / 'out.json'))
    cfg.custom_hooks[0].search = search
    cfg.custom_hooks[0].dump = 'states.jsonl'
    runner = Runner.from_cfg(cfg)
    runner.test()
    lines = (Path(runner.log_dir) / 'states.jsonl').read_text().splitlines()
    passes = [entry for line in lines for entry in json.loads(line)['passes']]
    assert [entry['states'] for entry in passes] == [found['states']] * 3
    assert passes[0]['bound'] == pytest.approx(found['rounds'][-1]['cost'], abs=1e-3)
    cfg.custom_hooks[0].subsampling.groups = [-1]
    with pytest.raises(
        mmdiscard.MMDiscardError, match='made for 2 groups .*, the model searches 1'
    ):
        Runner.from_cfg(cfg).test()


def test_an_interrupted_choice_goes_on_to_the_same_end(
    calibrate, config, checkpoint, tmp_path, monkeypatch, capsys
):
    command = [config, checkpoint, '--budget', 3, '--images', 3, '--candidates', 4]
    whole = calibrate(*command)
    losses, calls = StateCalibration._losses, []

    def interrupted(self, candidates):
        calls.append(len(self.selection.steps))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return losses(self, candidates)

    monkeypatch.setattr(StateCalibration, '_losses', interrupted)
    with pytest.raises(SystemExit, match='the same command goes on from there'):
        calibrate(*command, out='again.json')
    assert not (tmp_path / 'again.json').exists()
    assert calibrate(*command, out='again.json') == whole
    assert calls == [0, 1, 1, 2]
    assert 'going on after 1 finished rounds' in capsys.readouterr().err
    assert not list(tmp_path.glob('*.rounds')) and not list(tmp_path.glob('*.partial'))


def test_rounds_of_other_settings_are_not_used(calibrate, config, checkpoint, tmp_path, capsys):
    command = [config, checkpoint, '--budget', 2, '--images', 1, '--candidates', 3]
    expected = calibrate(*command)
    (tmp_path / 'new.json.rounds').write_text(json.dumps(dict(run={}, steps=[dict(state=[0, 9])])))
    found = calibrate(*command, out='new.json')
    assert found == expected
    assert 'starting again' in capsys.readouterr().err


def test_images_come_from_all_data_sets_of_a_wrapper(calibrate, config, checkpoint, tmp_path):
    cfg = Config.fromfile(config)
    val = cfg.val_dataloader.dataset
    other = dict(cfg.train_dataloader.dataset, pipeline=val.pipeline)
    both = dict(type='ConcatDataset', datasets=[val, other])
    cfg.val_dataloader.dataset = dict(type='RepeatDataset', times=3, dataset=both)
    cfg.dump(tmp_path / 'several.py')
    found = calibrate(tmp_path / 'several.py', checkpoint, '--budget', 1, '--images', 99)
    assert found['calibrated']['images'] == 7 + 5


def test_two_processes_find_what_one_does(calibrate, config, checkpoint, tmp_path):
    options = ['--budget', '2', '--images', '5', '--candidates', '4']
    gate = ['--gate', 'entropy', '--cost', '2', '--images', '5']
    one = calibrate(config, checkpoint, *options)
    one_gate = calibrate(config, checkpoint, *gate)

    def process(rank):
        os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
        meeting = f'file://{tmp_path}/meeting'
        distributed.init_process_group('gloo', init_method=meeting, rank=rank, world_size=2)
        flags = ['--work-dir', str(tmp_path / 'two'), '--launcher', 'pytorch']
        tool.main([config, checkpoint, *options, *flags])
        tool.main([config, checkpoint, *gate, *flags])

    # Forked, so that they need not import everything again.
    processes = [
        multiprocessing.get_context('fork').Process(target=process, args=(r,)) for r in (0, 1)
    ]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert [each.exitcode for each in processes] == [0, 0]
    two = json.loads((tmp_path / 'two' / 'states.json').read_text())
    assert two['states'] == one['states'] and two['calibrated'] == one['calibrated']
    for mine, theirs in zip(one['rounds'], two['rounds'], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-6)
    two_gate = json.loads((tmp_path / 'two' / 'gate.json').read_text())
    assert two_gate.pop('threshold') == pytest.approx(one_gate.pop('threshold'), rel=1e-5)
    assert two_gate == one_gate


# ---------------------------------------------------------------------------------------- gates
@pytest.mark.parametrize(
    'gate, name, more', [('margin', 'spread', ''), ('entropy', 'greedy', GREEDY)]
)
def test_a_gate_costs_what_its_file_expects(
    calibrate, write_config, checkpoint, tmp_path, gate, name, more
):
    config = write_config(f'gate_{name}', more)
    found = calibrate(config, checkpoint, '--gate', gate, '--cost', 2.0)
    expected = found['expected']
    assert expected['cost'] <= 2.0 < expected['cost_without_gate']
    assert len(expected['images_by_states']) > 1

    cfg = Config.fromfile(write_config(f'tested_{name}', more + ON_VAL))
    cfg.work_dir, cfg.load_from = str(tmp_path), checkpoint
    cfg.custom_hooks[0].search.gate = dict(type=found['gate'], file=str(tmp_path / 'out.json'))
    cfg.custom_hooks[0].dump = 'states.jsonl'
    runner = Runner.from_cfg(cfg)
    runner.test()
    lines = (Path(runner.log_dir) / 'states.jsonl').read_text().splitlines()
    passes = [entry for line in lines for entry in json.loads(line)['passes']]
    counts = [len(entry['states']) for entry in passes]
    assert {str(n): counts.count(n) for n in sorted(set(counts))} == expected['images_by_states']
    assert sum(entry['bound'] for entry in passes) / 7 == pytest.approx(expected['cost'], abs=1e-3)


# -------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    'flags, words',
    [
        (['--budget', 0], 'at least 1; got 0'),
        (['--budget', 99], '99 is more than the 16 states'),
        (['--cost', 0.5], 'the first state is one'),
        (['--budget', 2, '--images', 0], '--images has to be at least 1'),
        (['--budget', 2, '--candidates', 1], '--candidates has to be at least 2'),
        (['--gate', 'entropy', '--cost', 99], 'on average without a gate'),
    ],
)
def test_requests_that_make_no_sense_are_refused(fails, config, checkpoint, flags, words):
    assert words in fails(config, checkpoint, *flags)


@pytest.mark.parametrize('flags', [[], ['--gate', 'entropy'], ['--gate', 'margin', '--budget', 3]])
def test_budget_and_cost_go_with_what_is_calibrated(flags, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['a.py', 'a.pth', *map(str, flags)])
    assert '--cost' in capsys.readouterr().err


def test_the_test_split_is_refused(fails, write_config, checkpoint):
    said = fails(write_config('val_is_test', ON_VAL), checkpoint, '--budget', 2)
    assert 'the val split of the config is its test split' in said and '--split train' in said


def test_a_config_without_hook_is_refused(fails, write_config, checkpoint):
    said = fails(write_config('no_hook', 'custom_hooks = []'), checkpoint, '--budget', 2)
    assert 'has no SubsamplingSearchHook' in said


def test_images_without_labels_are_refused(fails, write_config, checkpoint):
    steps = "[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]"
    dataset = f"dict(val_dataloader['dataset'], pipeline={steps})"
    config = write_config('bare', f'val_dataloader = dict(val_dataloader, dataset={dataset})')
    assert 'needs labelled images' in fails(config, checkpoint, '--budget', 2)


def test_other_weights_are_refused(fails, config, checkpoint):
    options = ['--cfg-options', 'model.decode_head.channels=16']
    assert 'does not belong to this model' in fails(config, checkpoint, '--budget', 2, *options)
