"""`benchmarks.heads.run`: one head from training to report, a second run, and the table."""

import json

import pytest

from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes
from benchmarks.heads import run as tool
from mmdiscard.errors import MMDiscardError

pytest.importorskip('sklearn')


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Run the tool with the given flags; the folder that it works in."""

    def run(*flags):
        argv = ['run.py', '--work-dir', str(tmp_path / 'work'), *map(str, flags)]
        monkeypatch.setattr('sys.argv', argv)
        tool.main()
        return tmp_path / 'work'

    return run


def test_a_head_is_trained_tested_and_reported_once(call, tmp_path, capsys):
    params = DigitSceneParams(seg_images=(8, 2, 3), cls_images=(10, 10, 10))
    data = make_digit_scenes(tmp_path / 'scenes', params)
    flags = ['--heads', 'segformer', '--seeds', '1', '--data', data]
    flags += ['--cfg-options', 'train_cfg.max_iters=2', 'train_dataloader.batch_size=2']
    folder = call(*flags)
    found = json.loads((folder / 'report-test.json').read_text())
    (results,) = found['segformer']
    assert {setting: list(results[setting]) for setting in tool.SETTINGS} == {
        setting: list(tool.ALIGNMENTS) for setting in tool.SETTINGS
    }
    assert f'{results["plain"]:.2f}' in (folder / 'report-test.md').read_text()
    assert 'heads and seeds 1/1' in capsys.readouterr().err

    files = {path: path.stat().st_mtime_ns for path in folder.glob('segformer/seed0/*.*')}
    call(*flags)
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())


def test_the_table_pairs_runs():
    def run(plain, exact):
        gains = dict.fromkeys(tool.ALIGNMENTS, plain) | dict(exact=exact)
        return dict(plain=plain, deep=gains)

    lines = tool.table(dict(fcn=[run(40.0, 41.0), run(50.0, 52.0)], fpn=[run(60.0, 61.5)]), 'deep')
    assert lines[2].endswith(
        '| 2 | 45.00 | +0.00 ± 0.00 | +0.00 ± 0.00 | +1.50 ± 6.35 | +1.50 ± 6.35 |'
    )
    assert lines[3].endswith('| 1 | 60.00 | +0.00 | +0.00 | +1.50 | +1.50 |')
    assert lines[4].endswith(
        '|  | 52.50 | +0.00 ± 0.00 | +0.00 ± 0.00 | +1.50 ± 0.00 | +1.50 ± 0.00 |'
    )


def test_heads_that_cannot_be_built_are_named(call):
    try:
        import mmcv.ops  # noqa: F401
    except ImportError:
        with pytest.raises(MMDiscardError, match='pointrend needs mmcv.ops'):
            call('--heads', 'pointrend')
    else:
        pytest.skip('mmcv.ops is there')
