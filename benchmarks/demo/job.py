"""One model and one seed of the demo: train it, test it in several ways, write ``results.json``.

Started by ``benchmarks.demo.run``; what exists and still fits is reused.
"""

import argparse
import copy
import hashlib
import logging
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmdiscard
from benchmarks.common.figures import draw_panels
from benchmarks.common.files import read_results
from benchmarks.demo.models import CONFIGS, DEMO_MODELS, DemoModel
from mmdiscard.engine import cli
from mmdiscard.engine.config import make_plain, prepare_dataloaders, read_config, use_tta
from mmdiscard.engine.load_runner import build_runner
from mmdiscard.learned.training_config import load_base, training_config
from mmdiscard.learned.training_hook import RESULT
from mmdiscard.utils import write_json

PANEL_IMAGES = 5


def variants(model: DemoModel, curve: bool, learned: bool = False) -> dict[str, dict]:
    """Ways to test a model: name -> config to start from, and arguments of `test`.

    Args:
        model: of the demo.
        curve: also with other budgets, for the figure of costs.
        learned: also with the learned aggregator.
    """
    found = {
        'plain': dict(config=model.recommended, plain=True),
        'MM multi-scale TTA': dict(config=model.recommended, plain=True, tta=True),
        'mmdiscard': dict(config=model.recommended),
        'mmdiscard + TTA': dict(config=model.recommended, tta=True),
    }
    if model.published:
        found["paper's settings"] = dict(config=model.published)
    if learned:
        found['learned aggregation'] = dict(config=model.learned)
    if curve:
        found |= {
            f'B={budget}': dict(config=model.recommended, budget=budget) for budget in model.budgets
        }
    return found


class StepTimer(Hook):
    """Seconds that the model and the metric take per batch; loading is not counted."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def before_test_iter(self, *args, **kwargs) -> None:
        self.start = time.perf_counter()

    def after_test_iter(self, *args, **kwargs) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def load_config(name: str, data: Path, work_dir: Path, seed: int) -> Config:
    """A config of ``configs/demo``, ready to run.

    Args:
        name: of the file.
        data: folder of the digit scenes.
        work_dir: of the run.
        seed: of the run.
    """
    cfg = read_config(str(CONFIGS / name))
    kind = 'classification' if cfg.default_scope == 'mmpretrain' else 'segmentation'
    # No workers: loading small images in this process is quicker than asking others for them.
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[field].dataset.data_root = str(data / kind)
        cfg[field].num_workers = 0
    prepare_dataloaders(cfg)
    cfg.randomness.seed = seed
    cfg.work_dir = str(work_dir)
    # Every Runner prints its config, and formatting that takes longer than a test on small images.
    return Config(cfg.to_dict(), filename=cfg.filename, format_python_code=False)


def fingerprint(*parts: object) -> str:
    """Changes whenever the result would."""
    text = '\n'.join(part.dump() if isinstance(part, Config) else str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def train(name: str, data: Path, work_dir: Path, seed: int) -> tuple[Path, str]:
    """Train, unless this very run is there; the checkpoint and the run's fingerprint.

    Args:
        name: of the demo model.
        data: folder of the digit scenes.
        work_dir: of the run.
        seed: of the run.
    """
    cfg = load_config(f'{name}.py', data, work_dir, seed)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    key = fingerprint(cfg, (data / 'manifest.json').read_text())
    checkpoint = work_dir / f'iter_{cfg.train_cfg.max_iters}.pth'
    done = work_dir / 'trained.json'
    if read_results(done).get('fingerprint') != key or not checkpoint.is_file():
        done.unlink(missing_ok=True)
        Runner.from_cfg(cfg).train()
        write_json(done, dict(fingerprint=key))
    return checkpoint, key


def train_aggregator(cfg: Config, checkpoint: Path, trained: str) -> None:
    """Train the aggregator of ``cfg``, unless this very one is there, and let ``cfg`` load it.

    Args:
        cfg: with a learned aggregator.
        checkpoint: weights of the model.
        trained: fingerprint of the model's training.
    """
    folder = Path(cfg.work_dir).with_name('learned')
    aggregator = cfg.custom_hooks[0].aggregator
    aggregator.init_cfg.checkpoint = str(folder / RESULT)
    key, done = fingerprint(trained, cfg, mmdiscard.__version__), folder / 'trained.json'
    if read_results(done).get('fingerprint') != key or not (folder / RESULT).is_file():
        learning = copy.deepcopy(cfg)
        learning.work_dir = str(folder)
        training_config(learning)
        runner = build_runner(learning, check_weights=False)
        load_base(runner, str(checkpoint))
        runner.train()
        write_json(done, dict(fingerprint=key))


def test(
    cfg: Config, checkpoint: Path, plain: bool = False, tta: bool = False, budget: int = 0
) -> tuple[dict, float]:
    """Test once: all metrics, and the median seconds of a batch.

    Args:
        cfg: with a search hook.
        checkpoint: weights.
        plain: without mmdiscard.
        tta: with the config's views.
        budget: number of states; 0 for the config's.
    """
    if plain:
        make_plain(cfg)
    if budget:
        cfg.custom_hooks[0].search.budget = budget
    if tta:
        use_tta(cfg)
    cfg.load_from = str(checkpoint)
    runner = Runner.from_cfg(cfg)
    timer = StepTimer()
    runner.register_hook(timer)
    metrics = runner.test()
    return metrics, statistics.median(timer.seconds)


def run(name: str, seed: int, data: Path, work_dir: Path, learned: bool = False) -> None:
    """Train and test one model; add what is missing to its results.

    Args:
        name: of the demo model.
        seed: of the training.
        data: folder of the digit scenes.
        work_dir: for checkpoint, logs and results.
        learned: also with the learned aggregator.
    """
    model = DEMO_MODELS[name]
    checkpoint, trained = train(name, data, work_dir, seed)
    results = read_results(work_dir / 'results.json')
    for variant, how in variants(model, seed == 0, learned).items():
        options = dict(how)
        cfg = load_config(options.pop('config'), data, work_dir / 'test', seed)
        key = fingerprint(trained, cfg, how, mmdiscard.__version__)
        if results.get(variant, {}).get('fingerprint') == key:
            continue
        print(f'demo: testing {variant}', flush=True)
        if 'aggregator_training' in cfg:
            train_aggregator(cfg, checkpoint, trained)
        cfg.log_level = logging.getLevelName(logging.WARNING)
        metrics, seconds = test(cfg, checkpoint, **options)
        metric = float(metrics[model.metric])
        results[variant] = dict(fingerprint=key, metric=metric, seconds=seconds)
        write_json(work_dir / 'results.json', results)
    if seed == 0 and model.metric == 'mIoU':
        write_panels(name, data, checkpoint, work_dir)


def write_panels(name: str, data: Path, checkpoint: Path, work_dir: Path) -> None:
    """Predictions side by side for images spread evenly over the test set, not selected.

    Args:
        name: of the demo model.
        data: folder of the digit scenes.
        checkpoint: weights.
        work_dir: for the picture.
    """
    import mmcv
    from mmseg.apis import inference_model, init_model

    cfg = load_config(DEMO_MODELS[name].recommended, data, work_dir, 0)
    model = init_model(cfg, str(checkpoint), device='cpu')
    root = data / 'segmentation'
    paths = sorted((root / 'images' / 'test').glob('*.png'))
    paths = paths[:: max(1, len(paths) // PANEL_IMAGES)][:PANEL_IMAGES]
    settings = {k: cfg.custom_hooks[0][k] for k in ('subsampling', 'search', 'aggregator')}

    def predict(path: Path) -> np.ndarray:
        return inference_model(model, str(path)).pred_sem_seg.data[0].numpy().astype(np.uint8)

    plain = [predict(path) for path in paths]
    with mmdiscard.attach(model, **settings):
        merged = [predict(path) for path in paths]
    rows = [
        (
            mmcv.imread(str(path), channel_order='rgb'),
            mmcv.imread(str(root / 'labels' / 'test' / path.name), flag='unchanged'),
            before,
            after,
        )
        for path, before, after in zip(paths, plain, merged, strict=True)
    ]
    draw_panels(rows, cfg.metainfo.palette, work_dir / 'panels.png')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', choices=DEMO_MODELS)
    parser.add_argument('seed', type=int)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--learned', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(1)
    run(args.model, args.seed, args.data, args.work_dir, args.learned)


if __name__ == '__main__':
    cli.run(main)
