"""Every published config reads, fits its model, and runs through `tools/test.py` to a metric."""

import functools
from pathlib import Path

import pytest
from integration.layouts import WRITERS, build_model, small_input, write_checkpoint
from mmengine.config import Config
from mmengine.fileio import load

import mmdiscard
from mmdiscard import test as tool

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(
    path.relative_to(ROOT / 'configs').with_suffix('').as_posix()
    for name in WRITERS
    for path in (ROOT / 'configs' / name).glob('*.py')
)
PLAIN_NAMES = [name for name in PUBLISHED if not name.endswith('_tta')]
# A classifier and segmentors, slide and whole inference; the rest takes long.
RESNET = 'imagenet/resnet18_greedy-b10_8xb32_in1k'
SEGFORMER = 'cityscapes/segformer_mit-b0_spread-b4_8xb1-160k_cityscapes-1024x1024'
SEGFORMER_WHOLE = 'ade20k/segformer_mit-b0_spread-b4_8xb2-160k_ade20k-512x512'
ALWAYS = [(RESNET, ''), (f'{RESNET}_tta', '--tta'), (SEGFORMER, ''), (SEGFORMER_WHOLE, '')]
ALL = [
    *((name, '') for name in PLAIN_NAMES),
    *((name, '--tta') for name in PUBLISHED if name.endswith('_tta')),
    # The packages' own models and TTA models, around mmdiscard and alone.
    *((name, '--plain') for name in (RESNET, SEGFORMER, SEGFORMER_WHOLE)),
    *((name, '--tta') for name in (RESNET, SEGFORMER_WHOLE)),
    *((f'{name}_tta', '--plain --tta') for name in (RESNET, SEGFORMER_WHOLE)),
]
SLOW = [run for run in ALL if run not in ALWAYS]
# Quick to trace; the slow runs attach to the others.
FITTED = [
    'ade20k/segformer_mit-b0_greedy-b4_8xb2-160k_ade20k-512x512',
    'ade20k/segnext_mscan-t_spread-b4_1xb16-adamw-160k_ade20k-512x512',
    'imagenet/mobilenet-v2_greedy-b10_8xb32_in1k',
    'imagenet/mobilenet-v3-large_greedy-b10_8xb128_in1k',
    'imagenet/shufflenet-v2-1x_greedy-b10_16xb64_in1k',
]
# How many states the index of models says that a config uses.
STATES = {
    model['Config'].removeprefix('configs/').removesuffix('.py'): model['Metadata']['States']
    for name in WRITERS
    for model in load(ROOT / 'configs' / name / 'metafile.yml')['Models']
}
METRICS = {'mmpretrain': 'accuracy/top1', 'mmseg': 'mIoU'}


@functools.cache
def read(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def test_every_config_has_a_row():
    page = (ROOT / 'configs' / 'README.md').read_text()
    assert [name for name in PUBLISHED if f'({name}.py)' not in page] == []


@pytest.mark.parametrize('name', PUBLISHED)
def test_settings_are_mmdiscards(name):
    cfg = read(name)
    hooks = [h for h in cfg.custom_hooks if h.type == 'mmdiscard.SubsamplingSearchHook']
    assert [hook.search.budget for hook in hooks] == [STATES[name]]
    assert 'mmdiscard' in cfg.custom_imports.imports
    if name.endswith('_tta'):
        assert cfg.tta_model.type.startswith('mmdiscard.Discard')
        assert any(step.type == 'TestTimeAug' for step in cfg.tta_pipeline)


@pytest.mark.parametrize('name', FITTED)
def test_settings_fit_the_model(name):
    cfg = read(name)
    settings = dict(cfg.custom_hooks[0])
    settings.pop('type')
    budget = settings['search']['budget']
    with mmdiscard.attach(build_model(cfg), **settings) as ensemble:
        assert ensemble.budget == budget


def arguments(name: str, flags: str, folder: Path) -> list[str]:
    """The command line that tests a config on four images, all of it written to ``folder``."""
    cfg = read(name)
    data = WRITERS[name.partition('/')[0]](folder / 'data')
    checkpoint = write_checkpoint(cfg, folder / 'model.pth')
    argv = [str(ROOT / 'configs' / f'{name}.py'), str(checkpoint), *flags.split()]
    argv += ['--work-dir', str(folder / 'work'), '--out', str(folder / 'metrics.json')]
    argv += ['--out-item', 'metrics', '--cfg-options', *small_input(cfg, data)]
    if '--tta' in flags:  # up to twelve views of each
        argv.append('test_dataloader.dataset.indices=2')
    return argv


def check_outcome(name: str, flags: str, folder: Path) -> None:
    metrics = load(folder / 'metrics.json')
    assert 0 <= metrics[METRICS[read(name).default_scope]] <= 100
    (log,) = (folder / 'work').glob('*/*.log')
    assert ('mmdiscard summary' in log.read_text()) == ('--plain' not in flags)


@pytest.mark.parametrize(
    ('name', 'flags'),
    [*ALWAYS, *(pytest.param(*run, marks=pytest.mark.slow) for run in SLOW)],
)
def test_runs_to_a_metric(name, flags, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)
    tool.main(arguments(name, flags, tmp_path))
    check_outcome(name, flags, tmp_path)
