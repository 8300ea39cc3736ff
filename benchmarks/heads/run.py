"""How to align states, head type by head type: small models on the digit scenes, one table.

    python -m benchmarks.heads.run --seeds 3

Trains every model of ``configs/demo/heads`` with every seed and tests it plain and with four
states, once for the deepest subsampling group and once for the group that reaches stride 4, merged
without alignment, with the paper's alignment of features, and exactly. What exists is reused, so
the same command goes on after an interruption. The report holds whatever is finished.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmdiscard
from benchmarks.common.files import read_results
from benchmarks.common.statistics import paired_interval
from benchmarks.common.tables import markdown_table
from benchmarks.demo.digit_scenes import make_digit_scenes
from benchmarks.demo.job import fingerprint, load_config
from mmdiscard.engine import cli
from mmdiscard.errors import MMDiscardError
from mmdiscard.utils import Progress, write_json, write_text


@dataclass(frozen=True)
class Head:
    """One model of the comparison.

    Attributes:
        title: in the report.
        fine: position of the group whose output has stride 4.
        ops: whether it needs ``mmcv.ops``.
    """

    title: str
    fine: int = 1
    ops: bool = False


HEADS = {
    'fcn': Head('FCN, input concatenated'),
    'psp': Head('PSP'),
    'aspp': Head('ASPP (DeepLabV3)'),
    'deeplabv3plus': Head('DeepLabV3+, low-level skip'),
    'ocr': Head('OCR cascade'),
    'fpn': Head('FPN'),
    'upernet': Head('UPerNet'),
    'segformer': Head('SegFormer (MiT)', fine=0),
    'segnext': Head('Hamburger (SegNeXt)'),
    'pointrend': Head('PointRend cascade', ops=True),
}
SETTINGS = {
    'deep': 'Four states of the deepest group',
    'fine': 'Four states of the group that reaches stride 4, spread: 0 or 2 pixels along each axis',
}
ALIGNMENTS = {
    'unaligned': dict(on='logits', align='none'),
    'bilinear': dict(on='features', align='bilinear'),
    'exact': dict(on='logits', align='exact'),
}
# What the exact alignment is compared with: the paper's.
PUBLISHED = 'bilinear'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--heads', nargs='+', choices=HEADS, help='default: all that can be built')
    parser.add_argument('--seeds', type=int, default=3, help='trainings per head (default: 3)')
    parser.add_argument('--split', choices=['test', 'val'], default='test', help='to test on')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/heads'))
    parser.add_argument('--data', type=Path, default=Path('data/digit_scenes'))
    parser.add_argument(
        '--out', type=Path, help='report (.md, and .json beside it; default: in the work dir)'
    )
    cli.add_config_options(parser)
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error('--seeds is a whole number of at least 1')
    args.out = args.out or args.work_dir / f'report-{args.split}.md'
    return args


# -------------------------------------------------------------------------------------- one model
def job_folder(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Folder of one head and seed."""
    return args.work_dir / name / f'seed{seed}'


def job_config(args: argparse.Namespace, name: str, seed: int) -> Config:
    """The config of one training; tests run on the asked split.

    Args:
        args: flags.
        name: of the head.
        seed: of the training.
    """
    folder = job_folder(args, name, seed)
    cfg = load_config(f'heads/{name}.py', args.data, folder, seed)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.log_level = 'WARNING'
    if args.split == 'val':
        cfg.test_dataloader = cfg.val_dataloader
    return cfg


def run_job(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train and test one head with one seed, unless that is done.

    Args:
        args: flags.
        name: of the head.
        seed: of the training.
    """
    folder = job_folder(args, name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, trained = train(job_config(args, name, seed), args.data, folder)
    results = folder / f'{args.split}.json'
    cfg = job_config(args, name, seed)
    key = fingerprint(trained, cfg.test_dataloader, SETTINGS, ALIGNMENTS, HEADS[name].fine)
    if read_results(results).get('fingerprint') != key:
        write_json(results, dict(fingerprint=key, mIoU=test(cfg, checkpoint, HEADS[name].fine)))


def train(cfg: Config, data: Path, folder: Path) -> tuple[Path, str]:
    """Train, unless this very run is there; the checkpoint and the run's fingerprint.

    Args:
        cfg: of the training.
        data: folder of the digit scenes.
        folder: for checkpoint and logs.
    """
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    key = fingerprint(cfg, (data / 'manifest.json').read_text())
    checkpoint = folder / f'iter_{cfg.train_cfg.max_iters}.pth'
    done = folder / 'trained.json'
    if read_results(done).get('fingerprint') != key or not checkpoint.is_file():
        done.unlink(missing_ok=True)
        runner = Runner.from_cfg(cfg)
        runner.register_hook(TrainingProgress(str(folder)))
        runner.train()
        write_json(done, dict(fingerprint=key))
    return checkpoint, key


class TrainingProgress(Hook):
    """Prints how far a training is.

    Args:
        title: names the training.
    """

    def __init__(self, title: str) -> None:
        self.title = title

    def before_train(self, runner: Runner) -> None:
        self.progress = Progress(runner.max_iters, f'{self.title}, iterations')

    def after_train_iter(self, runner: Runner, batch_idx: int, outputs: dict, **kwargs) -> None:
        self.progress.step(f'loss {float(outputs["loss"]):.3f}')


def test(cfg: Config, checkpoint: Path, fine: int) -> dict:
    """mIoU of the plain model, and of every setting and alignment.

    Args:
        cfg: with the test set.
        checkpoint: weights.
        fine: position of the group whose output has stride 4.
    """
    cfg.load_from = str(checkpoint)
    runner = Runner.from_cfg(cfg)
    groups = {'deep': [-1], 'fine': [fine]}
    size = cfg.data_preprocessor.size

    def measured() -> float:
        torch.manual_seed(0)  # Hamburgers draw their bases anew at every call
        return float(runner.test()['mIoU'])

    found: dict = {'plain': measured()}
    for setting in SETTINGS:
        found[setting] = {}
        for alignment, options in ALIGNMENTS.items():
            with mmdiscard.attach(
                runner.model,
                subsampling=dict(groups=groups[setting], input_size=size),
                search=dict(type='SpreadStates', budget=4),
                aggregator=dict(type='AverageAggregator', **options),
            ):
                found[setting][alignment] = measured()
    return found


# ---------------------------------------------------------------------------------------- report
def collect(args: argparse.Namespace) -> dict[str, list[dict]]:
    """What is finished: results of every head, one per seed."""
    found = {}
    for name in HEADS:
        files = [job_folder(args, name, s) / f'{args.split}.json' for s in range(args.seeds)]
        results = [read_results(path)['mIoU'] for path in files if path.is_file()]
        if results:
            found[name] = results
    return found


def table(found: dict[str, list[dict]], setting: str) -> list[str]:
    """Lines of one table: gains over the plain model and over the published alignment."""
    rows = []
    means: dict[str, list[float]] = {key: [] for key in ('plain', *ALIGNMENTS)}
    for name, results in found.items():
        runs = {key: [r[setting][key] for r in results] for key in ALIGNMENTS}
        runs['plain'] = [r['plain'] for r in results]
        for key, values in runs.items():
            means[key].append(fmean(values))
        rows.append(row(HEADS[name].title, str(len(results)), runs))
    if len(found) > 1:
        rows.append(row('**all heads**', '', means))
    return markdown_table(['head', 'seeds', 'plain', *ALIGNMENTS, 'exact - paper'], rows)


def row(title: str, seeds: str, runs: dict[str, list[float]]) -> list[str]:
    """Cells of one row.

    Args:
        title: of the row.
        seeds: how many.
        runs: mIoU of every run by alignment, and of the plain model.
    """
    gains = [paired_interval(runs['plain'], runs[key]) for key in ALIGNMENTS]
    better = paired_interval(runs[PUBLISHED], runs['exact'])
    return [title, seeds, f'{fmean(runs["plain"]):.2f}', *map(str, gains), str(better)]


def write_report(args: argparse.Namespace) -> str:
    """Write what is finished as Markdown and JSON; the Markdown."""
    found = collect(args)
    lines = []
    for setting, title in SETTINGS.items():
        lines += [f'{title}, {args.split} split:', '', *table(found, setting), '']
    lines += [
        'Columns after `plain` (mIoU, %): paired difference with its 95 % interval over seeds; in',
        'the last row over heads.',
    ]
    text = '\n'.join(lines) + '\n'
    write_text(args.out, text)
    write_json(args.out.with_suffix('.json'), found)
    return text


# ------------------------------------------------------------------------------------------ main
def heads_to_run(args: argparse.Namespace) -> list[str]:
    """The heads asked for; by default all that this build of mmcv has the operators for.

    Raises:
        MMDiscardError: if one was asked for that cannot be built.
    """
    try:
        import mmcv.ops  # noqa: F401
    except ImportError:
        lacking = [name for name in args.heads or HEADS if HEADS[name].ops]
        if args.heads and lacking:
            raise MMDiscardError(
                f'{", ".join(lacking)} needs mmcv.ops, which this build of mmcv lacks; run it with '
                "an mmcv that was built with operators (OpenMMLab's own releases)"
            ) from None
        if lacking:
            print(f'left out, they need mmcv.ops: {", ".join(lacking)}', flush=True)
        return [name for name in args.heads or HEADS if name not in lacking]
    return list(args.heads or HEADS)


def run_all(args: argparse.Namespace) -> None:
    """Train and test all heads and seeds, and write the report after each."""
    names = heads_to_run(args)
    if not (args.data / 'manifest.json').is_file():
        print(f'Data: {make_digit_scenes(args.data)}', flush=True)
    # One seed of every head first, so that an early end leaves a whole table.
    jobs = [(name, seed) for seed in range(args.seeds) for name in names]
    progress = Progress(len(jobs), 'heads and seeds', every=0)
    for name, seed in jobs:
        run_job(args, name, seed)
        write_report(args)
        progress.step(f'{name} seed {seed}')
    print(f'\n{write_report(args)}\nReport: {args.out}')


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    try:
        run_all(args)
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. What is finished is kept: the same command goes on from there.')


if __name__ == '__main__':
    cli.run(main)
