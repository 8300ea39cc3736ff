"""What is checked once on a GPU: recovery from full memory, and a distributed test."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.registry import MODELS
from torch import Tensor

import mmdiscard
from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes
from benchmarks.demo.job import load_config
from benchmarks.speed import timing
from benchmarks.speed.run import NAMED_MODELS
from mmdiscard.errors import MMDiscardError
from mmdiscard.models import Ensemble
from mmdiscard.utils import read_json

ROOT = Path(__file__).parents[2]
MOST_IMAGES = 2**17
FEW = 8


def all_checks(device: torch.device, folder: Path) -> dict[str, str]:
    """By title, what came of each check, in Markdown.

    Args:
        device: a GPU.
        folder: for data, weights and logs.
    """
    cfg, known = timing.read_model_config('resnet50', NAMED_MODELS)
    torch.manual_seed(0)
    model = timing.build_model(cfg).to(device)
    search, groups = dict(type='SpreadStates', budget=4), dict(groups=known.groups)
    with torch.no_grad(), mmdiscard.attach(model, groups, search) as ensemble:
        memory = fill_memory(ensemble, lambda n: torch.randn(n, 3, *known.size, device=device))
    return {'Out of memory': memory, '`dist_test.sh` on one GPU': distributed_test(folder)}


def fill_memory(ensemble: Ensemble, images: Callable[[int], Tensor]) -> str:
    """Predict twice as many images each time until the ensemble lowers its limits.

    Args:
        ensemble: with a search that uses the same states for every image.
        images: makes a batch of so many.

    Raises:
        MMDiscardError: if memory was never full.
    """
    limits, count = ensemble.executor.limits, FEW
    while count <= MOST_IMAGES:
        batch = images(count)
        found = ensemble.predict(batch)
        lowered = ensemble.executor.limits
        if lowered != limits:
            apart = (ensemble.predict(batch[:FEW]) - found[:FEW]).abs().max() / found.abs().max()
            return (
                f'{count} images did not fit; they were predicted with max_rows={lowered.max_rows} '
                f'and max_cache_bytes={lowered.max_cache_bytes}. The first {FEW} predicted again '
                f'by themselves differ by {float(apart):.1e} of the largest logit.'
            )
        count *= 2
    raise MMDiscardError(f'{MOST_IMAGES} images did not fill the memory')


def distributed_test(folder: Path) -> str:
    """Run `tools/dist_test.sh` with one process, and compare its metrics with `tools/test.py`'s.

    The backend is that of the config, NCCL where there is a GPU.

    Args:
        folder: gets images, weights and logs.
    """
    data = make_digit_scenes(
        folder / 'scenes', DigitSceneParams(seg_images=(2, 2, 8), cls_images=(1, 1, 1))
    )
    cfg = load_config('segmentor_stride8_spread-b4.py', data, folder / 'test', seed=0)
    config, checkpoint = folder / 'config.py', folder / 'model.pth'
    cfg.dump(config)
    timing.init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), checkpoint)
    commands = dict(
        distributed=['bash', ROOT / 'tools/dist_test.sh', config, checkpoint, 1],
        alone=[sys.executable, ROOT / 'tools/test.py', config, checkpoint],
    )
    metrics = {name: _metrics(folder / f'{name}.json', words) for name, words in commands.items()}
    if metrics['distributed'] != metrics['alone']:
        raise MMDiscardError(f'dist_test.sh gives other metrics than test.py: {metrics}')
    backend = cfg.env_cfg.dist_cfg.backend if torch.cuda.is_available() else 'gloo'
    return f'With {backend} the same metrics as without: {metrics["alone"]}.'


def _metrics(out: Path, command: list[object]) -> dict[str, float]:
    """Metrics of a test tool, less those of time."""
    words = [*command, '--out', out, '--out-item', 'metrics', '--work-dir', out.with_suffix('')]
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    env = os.environ | dict(PYTHON=sys.executable, PORT=str(port))
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH')]))
    done = subprocess.run(
        list(map(str, words)), env=env, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise MMDiscardError(f'{command[0]} {command[1]} failed: {done.stderr[-2000:]}')
    return {name: value for name, value in read_json(out).items() if 'time' not in name}
