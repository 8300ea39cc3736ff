"""MM's own, unmodified test tools run mmdiscard, given `custom_imports` and `custom_hooks`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from integration.layouts import write_checkpoint
from mmengine.config import Config

from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'demo'
FEW = DigitSceneParams(seg_images=(1, 1, 5), cls_images=(10, 10, 10))
CASES = {
    'mmpretrain': ('classifier', 'classifier_greedy-b4', 'AverageClsScoreTTA', 'accuracy/top1'),
    'mmseg': ('segmentor_mit', 'segmentor_mit_spread-b4', 'SegTTAModel', 'mIoU'),
}


def own_tool(package: str) -> Path:
    folder = Path(importlib.util.find_spec(package).origin).parent
    return folder / '.mim' / 'tools' / 'test.py'


@pytest.fixture(scope='module', params=CASES)
def case(request, tmp_path_factory):
    """Package, the configs written out in full, a checkpoint, and where to work."""
    package = request.param
    plain, searched, mm_tta, metric = CASES[package]
    folder = tmp_path_factory.mktemp(package)
    data = make_digit_scenes(folder / 'scenes', FEW)
    kind = 'classification' if package == 'mmpretrain' else 'segmentation'

    def write(name: str, source: str, **changes) -> Path:
        cfg = Config.fromfile(CONFIGS / f'{source}.py')
        cfg.test_dataloader.dataset.data_root = str(data / kind)
        cfg.merge_from_dict(changes)
        cfg.dump(folder / f'{name}.py')
        return folder / f'{name}.py'

    configs = {
        'hook': (write('hook', searched), ''),
        "hook and MM's TTA": (write('mm_tta', searched, tta_model=dict(type=mm_tta)), '--tta'),
        "mmdiscard's TTA": (write('discard_tta', searched), '--tta'),
    }
    checkpoint = write_checkpoint(Config.fromfile(CONFIGS / f'{plain}.py'), folder / 'model.pth')
    return package, configs, checkpoint, folder, metric


def run(tool: Path, config: Path, checkpoint: Path, flags: str, folder: Path) -> tuple[dict, str]:
    """Metrics and output of a test tool; the same command runs once."""
    work_dir = folder / f'{config.stem}_{tool.parent.parent.name}'
    output = work_dir / 'output.txt'
    if not output.is_file():
        command = [sys.executable, str(tool), str(config), str(checkpoint), *flags.split()]
        command += ['--work-dir', str(work_dir)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {'OMP_NUM_THREADS': '1'},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        output.write_text(done.stdout + done.stderr)
    logged = next(path for path in work_dir.glob('*/*.json') if path.stem[:2] == '20')
    return json.loads(logged.read_text().splitlines()[-1]), output.read_text()


@pytest.mark.parametrize('way', ['hook', "hook and MM's TTA", "mmdiscard's TTA"])
def test_mm_test_tool_unmodified(case, way):
    package, configs, checkpoint, folder, metric = case
    config, flags = configs[way]
    metrics, output = run(own_tool(package), config, checkpoint, flags, folder)
    assert 0 <= metrics[metric] <= 100
    assert 'mmdiscard summary' in output


def test_both_tools_give_the_same_metrics(case):
    package, configs, checkpoint, folder, metric = case
    config, flags = configs['hook']
    theirs, _ = run(own_tool(package), config, checkpoint, flags, folder)
    ours, _ = run(ROOT / 'tools' / 'test.py', config, checkpoint, flags, folder)
    assert ours[metric] == theirs[metric]
