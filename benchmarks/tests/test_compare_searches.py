"""Comparisons of searches and of gates on real scenes, with real Runners."""

import json
from pathlib import Path

import pytest
from integration.layouts import write_checkpoint
from mmengine.config import Config

from benchmarks.search import compare_gates, compare_states
from benchmarks.search.comparison import Comparison
from mmdiscard.engine import cli

ROOT = Path(__file__).parents[2]


CONFIG = f"""
_base_ = '{ROOT}/configs/demo/segmentor_stride8_spread-b4.py'
model = dict(
    backbone=dict(stem_channels=4, base_channels=4), decode_head=dict(in_channels=16, channels=8))
"""


@pytest.fixture(scope='module')
def files(scenes, tmp_path_factory):
    """A config and a checkpoint of its model."""
    folder = tmp_path_factory.mktemp('compare')
    config = folder / 'config.py'
    loader = dict(num_workers=0, dataset=dict(data_root=str(scenes / 'segmentation')))
    loader |= dict(persistent_workers=False)
    config.write_text(
        CONFIG + ''.join(f'{split}_dataloader = {loader}\n' for split in ('train', 'val', 'test'))
    )
    checkpoint = write_checkpoint(Config.fromfile(str(config)), folder / 'model.pth')
    return [str(config), str(checkpoint)]


@pytest.fixture
def no_more_tests(monkeypatch):
    """From now on, testing anything again is an error."""

    def forbid():
        monkeypatch.setattr(Comparison, '_run', None)

    return forbid


def test_states_are_compared_at_the_same_cost_and_only_once(files, tmp_path, no_more_tests, capsys):
    command = [*files, '--cost', '2', '--images', '2', '--work-dir', str(tmp_path)]
    compare_states.main(command)
    table = (tmp_path / 'states_cost2_comparison.md').read_text()
    assert table in capsys.readouterr().out
    results = json.loads((tmp_path / 'states_cost2_comparison.json').read_text())
    assert set(results) == {
        'plain',
        'calibrated set',
        'spread',
        'per image, deep first',
        'per image, shallow first',
    }
    for name, runs in results.items():
        assert len(runs) == 1  # one checkpoint
        assert runs[0]['cost'] <= 2 + 1e-6 and (runs[0]['states'] > 1) == (name != 'plain')
        assert f'| {name} | {runs[0]["metric"]:.2f} |' in table
    assert len(list(tmp_path.glob('run0/states_val2*.json'))) == 1
    no_more_tests()
    compare_states.main(command)


def test_gates_are_compared_with_the_whole_search(files, tmp_path, no_more_tests):
    command = [*files, '--costs', '1.5', '2', '--budgets', '2', '--work-dir', str(tmp_path)]
    compare_gates.main(command)
    results = json.loads((tmp_path / 'entropy_gates.json').read_text())
    assert list(results) == ['plain', 'no gate', 'gate, cost 1.5', 'gate, cost 2', '2 states']
    costs = {name: runs[0]['cost'] for name, runs in results.items()}
    assert costs['plain'] == 1 < costs['gate, cost 2'] < costs['no gate']
    assert results['2 states'][0]['states'] == 2
    assert (tmp_path / 'entropy_gates.png').stat().st_size > 1000
    no_more_tests()
    compare_gates.main(command)


def test_the_share_of_the_gain_is_that_of_the_means():
    results = {
        'plain': [dict(metric=50.0), dict(metric=60.0)],
        'no gate': [dict(metric=54.0), dict(metric=66.0)],
        'gate, cost 2': [dict(metric=53.0), dict(metric=64.0)],
    }
    assert compare_gates.share_of_gain(results, 'gate, cost 2') == pytest.approx(0.7)


def test_a_metric_that_is_not_there_is_named(files, tmp_path, capsys):
    command = [*files, '--metric', 'IoU', '--images', '2', '--work-dir', str(tmp_path)]
    with pytest.raises(SystemExit):
        cli.run(lambda: compare_states.main(command))
    assert "gives no metric 'IoU'; choose one of aAcc, mIoU" in capsys.readouterr().err
