"""The demo: three small models on real handwriting, with and without mmdiscard, in one table.

Makes the data, trains a classifier and two segmentors (about 40 seconds each) through MM's Runner,
tests each plain, with MM's multi-scale TTA, with mmdiscard, and with both. What exists is reused,
so a second run, or one after an interruption, only does what is missing.
"""

import argparse
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common.figures import draw_cost_curves
from benchmarks.common.statistics import paired_interval
from benchmarks.demo.digit_scenes import make_digit_scenes
from benchmarks.demo.job import MODELS, read_json
from mmdiscard.engine import cli
from mmdiscard.errors import MMDiscardError

JOB = 'benchmarks.demo.job'
TITLES = {
    'classifier': 'ResNet-18 type classifier, top-1 accuracy (%)',
    'segmentor_stride8': 'stride-8 ResNet segmentor, mIoU (%)',
    'segmentor_mit': 'MiT + SegFormer head, mIoU (%)',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, default=3, help='trainings per model (default: 3)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--data', type=Path, default=Path('data/digit_scenes'))
    parser.add_argument(
        '--learned', action='store_true', help='also train and test learned aggregation'
    )
    parser.add_argument('--jobs', type=int, default=2, help='processes side by side (default: 2)')
    args = parser.parse_args()
    if args.seeds < 1 or args.jobs < 1:
        parser.error('--seeds and --jobs are whole numbers of at least 1')
    return args


class Progress:
    """Lines of the jobs as they come, and how long the rest will take."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.finished = 0
        self.start = time.perf_counter()

    def line(self, job: str, text: str) -> None:
        if 'Iter(train)' in text:
            text = text[text.index('Iter(train)') :]
        elif not text.startswith('demo:'):
            return
        print(f'{job:>20s} | {text[:100].rstrip()}', flush=True)

    def done(self, job: str) -> None:
        self.finished += 1
        spent = time.perf_counter() - self.start
        left = spent / self.finished * (self.total - self.finished)
        print(
            f'{job:>20s} | done: {self.finished} of {self.total} runs, {spent:.0f} s spent, '
            f'about {left:.0f} s left',
            flush=True,
        )


def run_job(name: str, seed: int, args: argparse.Namespace, progress: Progress) -> None:
    """Run one job in its own process with one thread, its output kept in ``log.txt``.

    Raises:
        MMDiscardError: if it fails; names the log.
    """
    folder = job_folder(args, name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    job = f'{name} {seed}'
    command = [sys.executable, '-W', 'ignore', '-m', JOB, name, str(seed)]
    command += ['--data', str(args.data), '--work-dir', str(folder)]
    command += ['--learned'] if args.learned else []
    one_thread = os.environ | {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with (
        open(folder / 'log.txt', 'w', encoding='utf-8') as log,
        subprocess.Popen(command, env=one_thread, **pipes) as process,
    ):
        for text in process.stdout:
            log.write(text)
            progress.line(job, text)
    if process.returncode:
        raise MMDiscardError(f'the demo run of {job} failed; its output is in {folder / "log.txt"}')
    progress.done(job)


def job_folder(args: argparse.Namespace, name: str, seed: int) -> Path:
    return args.work_dir / name / f'seed{seed}'


def table(args: argparse.Namespace, name: str) -> list[str]:
    """Lines of the table for one model: mean metric, paired gain, cost."""
    runs = [read_json(job_folder(args, name, seed) / 'results.json') for seed in range(args.seeds)]
    plain = [run['plain'] for run in runs]
    lines = []
    for variant in MODELS[name].variants(curve=False, learned=args.learned):
        results = [run[variant] for run in runs]
        metrics = [result['metric'] for result in results]
        gain = paired_interval([p['metric'] for p in plain], metrics)
        cost = sum(r['seconds'] / p['seconds'] for r, p in zip(results, plain, strict=True))
        lines.append(
            f'| {"" if lines else TITLES[name]} | {variant} | {sum(metrics) / len(metrics):.2f} '
            f'| {"" if variant == "plain" else gain} | {cost / len(runs):.2f} |'
        )
    return lines


def curve(args: argparse.Namespace, name: str) -> list[tuple[int, float, float]]:
    results = read_json(job_folder(args, name, 0) / 'results.json')
    return [
        (
            budget,
            results[f'B={budget}']['seconds'] / results['plain']['seconds'],
            results[f'B={budget}']['metric'],
        )
        for budget in MODELS[name].budgets
    ]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second demo out of ``folder``.

    Raises:
        MMDiscardError: if one is running there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / '.lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise MMDiscardError(
                f'another demo is running in {folder}; wait for it, or name another --work-dir'
            ) from error
        yield


def main() -> None:
    args = parse_args()
    try:
        with alone_in(args.work_dir):
            run_all(args)
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. What is finished is kept: the same command goes on from there.')


def run_all(args: argparse.Namespace) -> None:
    """Data, jobs, table and pictures."""
    print(f'Data: {make_digit_scenes(args.data)}', flush=True)
    jobs = [(name, seed) for seed in range(args.seeds) for name in MODELS]
    progress = Progress(len(jobs))
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(run_job, *job, args, progress) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    interval = 'gain with 95 % interval' if args.seeds > 1 else 'gain (one seed: no interval)'
    report = [
        f'| model, test metric, {args.seeds} seed(s) | method | metric | {interval} | cost |',
        '|---|---|---:|---:|---:|',
        *(line for name in MODELS for line in table(args, name)),
        '',
        'cost: time of a test batch over that of the plain model, same process.',
    ]
    print('\n' + '\n'.join(report))
    (args.work_dir / 'table.md').write_text('\n'.join(report) + '\n')
    draw_cost_curves({name: curve(args, name) for name in MODELS}, args.work_dir / 'cost.png')
    panels = [job_folder(args, name, 0) / 'panels.png' for name in MODELS]
    pictures = [args.work_dir / 'cost.png', *(path for path in panels if path.is_file())]
    print('\nPictures: ' + ', '.join(map(str, pictures)))


if __name__ == '__main__':
    cli.run(main)
