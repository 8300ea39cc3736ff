"""`benchmarks.learned.run` on a few images: the table, and what is kept."""

import sys
from pathlib import Path

import pytest
from integration.layouts import write_checkpoint
from mmengine.config import Config

from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes
from benchmarks.learned import run
from mmdiscard.errors import MMDiscardError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(run, 'BUDGETS', (2, 3))
    return run


def test_it_writes_a_table_and_keeps_what_is_finished(tool, tmp_path, monkeypatch, capsys):
    scenes = DigitSceneParams(cls_images=(1, 1, 1), seg_images=(12, 1, 3), seg_size=64)
    data = make_digit_scenes(tmp_path / 'scenes', scenes)
    config = Config.fromfile(ROOT / 'configs/demo/segmentor_mit.py')
    write_checkpoint(config, tmp_path / 'demo/segmentor_mit/seed0/iter_1.pth')
    arguments = ['--models', 'segmentor_mit', '--seeds', '1', '--images', '10']
    arguments += ['--demo', tmp_path / 'demo', '--data', data, '--work-dir', tmp_path / 'out']
    monkeypatch.setattr(sys, 'argv', ['run.py', *map(str, arguments)])
    tool.main()
    table = (tmp_path / 'out' / 'table_test.md').read_text()
    for label in ('plain + class correction', 'B=2, phase (ours)', 'B=3, attention, lr 1e-06'):
        assert f'| {label} |' in table
    assert not list((tmp_path / 'out').glob('tmp*'))
    capsys.readouterr()
    monkeypatch.setattr(tool, 'run', None)  # nothing is computed again
    tool.main()
    assert table.strip() in capsys.readouterr().out
    monkeypatch.setattr(sys, 'argv', [*sys.argv, '--seeds', '2'])
    with pytest.raises(MMDiscardError, match='run `make demo` first'):
        tool.main()
