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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from benchmarks.common.figures import draw_cost_curves
from benchmarks.common.files import read_results
from benchmarks.common.statistics import paired_interval
from benchmarks.common.tables import markdown_table
from benchmarks.demo.digit_scenes import make_digit_scenes
from benchmarks.demo.job import variants
from benchmarks.demo.models import DEMO_MODELS
from mmdiscard.engine import cli
from mmdiscard.errors import MMDiscardError
from mmdiscard.utils import Progress, write_text

JOB = 'benchmarks.demo.job'


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


def show(job: str, text: str) -> None:
    """Print the lines of a job on the progress of training and tests."""
    if 'Iter(train)' in text:
        text = text[text.index('Iter(train)') :]
    elif not text.startswith('demo:'):
        return
    print(f'{job:>20s} | {text[:100].rstrip()}', flush=True)


def run_job(name: str, seed: int, args: argparse.Namespace, progress: Progress) -> None:
    """Run one job in its own process with one thread, its output kept in ``log.txt``.

    Args:
        name: of the demo model.
        seed: of the training.
        args: flags.
        progress: of all jobs.

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
            show(job, text)
    if process.returncode:
        raise MMDiscardError(f'the demo run of {job} failed; its output is in {folder / "log.txt"}')
    progress.step(job)


def job_folder(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Folder of one model and seed."""
    return args.work_dir / name / f'seed{seed}'


def rows(args: argparse.Namespace, name: str) -> list[list[str]]:
    """Rows of the table for one model: mean metric, paired gain, cost."""
    model = DEMO_MODELS[name]
    runs = [
        read_results(job_folder(args, name, seed) / 'results.json') for seed in range(args.seeds)
    ]
    plain = [run['plain'] for run in runs]
    found = []
    for variant in variants(model, curve=False, learned=args.learned):
        results = [run[variant] for run in runs]
        metrics = [result['metric'] for result in results]
        gain = paired_interval([p['metric'] for p in plain], metrics)
        cost = fmean(r['seconds'] / p['seconds'] for r, p in zip(results, plain, strict=True))
        found.append(
            [
                '' if found else model.title,
                variant,
                f'{fmean(metrics):.2f}',
                '' if variant == 'plain' else str(gain),
                f'{cost:.2f}',
            ]
        )
    return found


def curve(args: argparse.Namespace, name: str) -> list[tuple[int, float, float]]:
    """Points (budget, cost, metric) of the first seed."""
    results = read_results(job_folder(args, name, 0) / 'results.json')
    return [
        (
            budget,
            results[f'B={budget}']['seconds'] / results['plain']['seconds'],
            results[f'B={budget}']['metric'],
        )
        for budget in DEMO_MODELS[name].budgets
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
    jobs = [(name, seed) for seed in range(args.seeds) for name in DEMO_MODELS]
    progress = Progress(len(jobs), 'demo runs', every=0)
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(run_job, *job, args, progress) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    interval = 'gain with 95 % interval' if args.seeds > 1 else 'gain (one seed: no interval)'
    header = [f'model, test metric, {args.seeds} seed(s)', 'method', 'metric', interval, 'cost']
    table = markdown_table(header, [row for name in DEMO_MODELS for row in rows(args, name)], 2)
    report = '\n'.join([*table, '', 'cost: time of a test batch over that of the plain model.'])
    print('\n' + report)
    write_text(args.work_dir / 'table.md', report + '\n')
    draw_cost_curves({name: curve(args, name) for name in DEMO_MODELS}, args.work_dir / 'cost.png')
    panels = [job_folder(args, name, 0) / 'panels.png' for name in DEMO_MODELS]
    pictures = [args.work_dir / 'cost.png', *(path for path in panels if path.is_file())]
    print('\nPictures: ' + ', '.join(map(str, pictures)))


if __name__ == '__main__':
    cli.run(main)
