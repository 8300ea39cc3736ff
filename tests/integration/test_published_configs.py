"""Every published config reads, fits its model, and runs through `tools/test.py` to a metric."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from integration.layouts import WRITERS, build_model, small_input, write_checkpoint
from mmengine.config import Config

import mmdiscard

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(
    path.relative_to(ROOT / 'configs').with_suffix('').as_posix()
    for name in WRITERS
    for path in (ROOT / 'configs' / name).glob('*.py')
)
# A classifier and segmentors with slide and whole inference; the rest takes minutes.
RESNET = 'imagenet/resnet18_greedy-b10_8xb32_in1k'
SEGFORMER = 'cityscapes/segformer_mit-b0_spread-b4_8xb1-160k_cityscapes-1024x1024'
SEGFORMER_WHOLE = 'ade20k/segformer_mit-b0_spread-b4_8xb2-160k_ade20k-512x512'
ALWAYS = [
    (RESNET, '--plain'),
    (RESNET, ''),
    (f'{RESNET}_tta', '--tta'),
    (SEGFORMER, ''),
    (f'{SEGFORMER_WHOLE}_tta', '--tta'),
]
ALL = [
    *(
        (name, flags)
        for name in PUBLISHED
        if not name.endswith('_tta')
        for flags in ('', '--plain')
    ),
    *((name, '--tta') for name in PUBLISHED if name.endswith('_tta')),
    # The packages' own TTA models, around mmdiscard and alone.
    *((name, '--tta') for name in (RESNET, SEGFORMER_WHOLE)),
    *((f'{name}_tta', '--plain --tta') for name in (RESNET, SEGFORMER_WHOLE)),
]
SLOW = [run for run in ALL if run not in ALWAYS]
METRICS = {'mmpretrain': 'accuracy/top1', 'mmseg': 'mIoU'}


def read(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


@pytest.mark.parametrize('name', PUBLISHED)
def test_settings_are_mmdiscards(name):
    cfg = read(name)
    assert [hook.type for hook in cfg.custom_hooks] == ['mmdiscard.SubsamplingSearchHook']
    if name.endswith('_tta'):
        assert cfg.tta_model.type.startswith('mmdiscard.Discard')
        assert any(step.type == 'TestTimeAug' for step in cfg.tta_pipeline)


@pytest.mark.parametrize('name', [name for name in PUBLISHED if not name.endswith('_tta')])
def test_settings_fit_the_model(name):
    cfg = read(name)
    settings = dict(cfg.custom_hooks[0])
    settings.pop('type')
    budget = settings['search']['budget']
    with mmdiscard.attach(build_model(cfg), **settings) as ensemble:
        assert ensemble.budget == budget


def run_tool(name: str, flags: str, folder: Path) -> tuple[dict, str]:
    """Metrics and log of `tools/test.py` on four images of the config's data set."""
    cfg = read(name)
    data = WRITERS[name.partition('/')[0]](folder / 'data')
    checkpoint = write_checkpoint(cfg, folder / 'model.pth')
    out = folder / 'metrics.json'
    command = [sys.executable, str(ROOT / 'tools/test.py'), str(ROOT / 'configs' / f'{name}.py')]
    command += [str(checkpoint), '--work-dir', str(folder / 'work'), *flags.split()]
    command += ['--out', str(out), '--out-item', 'metrics']
    command += ['--cfg-options', *small_input(cfg, data)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.read_text()), done.stdout


def check_run(name: str, flags: str, folder: Path) -> None:
    metrics, log = run_tool(name, flags, folder)
    value = metrics[METRICS[read(name).default_scope]]
    assert 0 <= value <= 100
    assert ('mmdiscard summary' in log) == ('--plain' not in flags)


@pytest.mark.parametrize(('name', 'flags'), ALWAYS)
def test_runs_to_a_metric(name, flags, tmp_path):
    check_run(name, flags, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'flags'), SLOW)
def test_every_config_runs_to_a_metric(name, flags, tmp_path):
    check_run(name, flags, tmp_path)
