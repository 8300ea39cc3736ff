"""However many processes share a test set, and in whatever batches, the outcome is the same."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import dump, load
from PIL import Image
from small_models import classifier, classifier_config

from mmdiscard import MMDiscardError
from mmdiscard.engine import cli

ROOT = Path(__file__).parents[2]
IMAGES = 26
CONFIG = """
custom_imports = dict(imports=['mmdiscard'], allow_failed_imports=False)
default_scope = 'mmpretrain'
model = {model}
test_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseDataset',
        data_root={data!r},
        data_prefix='',
        ann_file='labels.json',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
test_cfg = dict()
test_evaluator = [
    dict(type='Accuracy'), dict(type='DumpResults', out_file_path={samples!r})]
model_wrapper_cfg = dict(type='MMDistributedDataParallel', find_unused_parameters=True)
custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        search=dict(
            type='GreedySearch',
            budget=6,
            criterion=dict(type={criterion!r}),
            gate=dict(type='EntropyGate', threshold=0.987)),
        uncertainty=True,
        dump='states.jsonl')
]
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Images in a number that neither two processes times four nor three divide evenly."""
    root = tmp_path_factory.mktemp('data')
    random = np.random.RandomState(0)
    for index in range(IMAGES):
        noise = random.randn(32, 32, 3) * random.uniform(2, 90) + random.uniform(60, 200)
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / f'{index}.png')
    labels = [dict(img_path=f'{index}.png', gt_label=index % 7) for index in range(IMAGES)]
    classes = [f'c{index}' for index in range(7)]
    dump(dict(metainfo=dict(classes=classes), data_list=labels), str(root / 'labels.json'))
    return root


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'model.pth'
    torch.save(dict(state_dict=classifier().state_dict()), path)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def dist_test(folder, data, checkpoint, processes, batch=4, criterion='EntropyCriterion'):
    """Run `dist_test.sh`; the finished process."""
    config = folder / 'config.py'
    model = classifier_config(init_cfg=None)
    names = dict(data=str(data), samples=str(folder / 'samples.pkl'), criterion=criterion)
    config.write_text(CONFIG.format(model=model, batch=batch, **names))
    command = ['bash', ROOT / 'tools/dist_test.sh', config, checkpoint, processes]
    command += ['--work-dir', folder / 'work', '--out', folder / 'metrics.json']
    return subprocess.run(
        [str(word) for word in [*command, '--out-item', 'metrics']],
        env=os.environ | dict(PYTHON=sys.executable, PORT=str(free_port()), OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture(scope='module')
def outcome(data, checkpoint, tmp_path_factory):
    """Metrics, dump, summary and samples of a run; each is made once."""
    known = {}

    def run(*setup):
        if setup not in known:
            folder = tmp_path_factory.mktemp('run')
            done = dist_test(folder, data, checkpoint, *setup)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
            (states,) = folder.glob('work/*/states.jsonl')
            assert not list(folder.rglob('*.incomplete'))
            lines = [json.loads(line) for line in states.read_text().splitlines()]
            (summary,) = re.findall(r'mmdiscard summary\n((?:  .*\n)+)', done.stdout)
            metrics = json.loads((folder / 'metrics.json').read_text())
            known[setup] = metrics, lines, summary, load(folder / 'samples.pkl')
        return known[setup]

    return run


ALWAYS = [(2, 4), (3, 1)]
SLOW = [(1, 4), (2, 1), (3, 4)]


def assert_same(found, expected):
    assert {name: value for name, value in found[0].items() if 'time' not in name} == {
        name: value for name, value in expected[0].items() if 'time' not in name
    }
    assert [record['img_path'] for record in found[1]] == [
        record['img_path'] for record in expected[1]
    ]
    for record, other in zip(found[1], expected[1], strict=True):
        (mine,), (reference,) = record['passes'], other['passes']
        assert mine['states'] == reference['states']
        assert mine['scores'] == pytest.approx(reference['scores'], rel=1e-4, abs=1e-6)
        assert mine['cost'] == reference['cost'] and mine['bound'] == reference['bound']
    assert found[2] == expected[2]
    for sample, other in zip(found[3], expected[3], strict=True):
        for name in ('confidence', 'disagreement'):
            torch.testing.assert_close(sample[name], other[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ('processes', 'batch'), [*ALWAYS, *(pytest.param(*s, marks=pytest.mark.slow) for s in SLOW)]
)
def test_processes_and_batches_change_nothing(outcome, processes, batch):
    alone = outcome(1, 1)
    assert len(alone[1]) == IMAGES
    counts = {len(record['passes'][0]['states']) for record in alone[1]}
    assert len(counts) > 1, 'all images used the same number of states: not much of a test'
    assert_same(outcome(processes, batch), alone)


@pytest.mark.slow
def test_random_criteria_are_seeded_by_the_image(outcome):
    assert_same(outcome(3, 4, 'RandomCriterion'), outcome(1, 1, 'RandomCriterion'))


def test_a_bad_image_on_one_process_ends_all(data, checkpoint, tmp_path):
    spoilt = tmp_path / 'data'
    spoilt.mkdir()
    for path in data.iterdir():
        (spoilt / path.name).symlink_to(path)
    bad = spoilt / '5.png'  # the second process has it
    bad.unlink()
    bad.write_bytes((data / '5.png').read_bytes()[:100])
    done = dist_test(tmp_path, spoilt, checkpoint, processes=2, batch=1)  # a hang would time out
    assert done.returncode != 0
    assert '5.png' in done.stderr
    assert not (tmp_path / 'metrics.json').exists()
    assert not list(tmp_path.rglob('states.jsonl'))
    begun = [path.name for path in tmp_path.rglob('*.incomplete')]
    assert 'states.jsonl.rank1.incomplete' in begun


def test_what_only_one_process_met_is_said_by_it(monkeypatch, capsys):
    def fail():
        raise MMDiscardError('what\nhappened')

    monkeypatch.setattr(cli, 'PATIENCE', 0)
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(SystemExit) as end:
        cli.run(fail)
    assert end.value.code == cli.USER_ERROR
    assert capsys.readouterr().err == 'mmdiscard: error (process 1): what happened\n'
