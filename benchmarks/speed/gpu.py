"""The benchmark on a GPU: fills a page with tables and two checks, and names the card.

    python -m benchmarks.speed.gpu --out work_dirs/gpu
    python -m benchmarks.speed.gpu --models resnet50 --batches 8     # a part

Weights are random and images are noise. Every case is one run of `benchmarks.speed.run`; what it
found is kept in the folder, so that the same command goes on after an interruption. Then memory is
filled until the search has to lower its limits, and `tools/dist_test.sh` runs with NCCL on one GPU.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.files import read_results
from benchmarks.common.tables import markdown_table
from benchmarks.speed import gpu_checks, report, run, timing
from mmdiscard.engine import cli
from mmdiscard.errors import MMDiscardError
from mmdiscard.utils import Progress, write_json, write_text

MODELS = {
    'resnet50': ('resnet50', [(224, 224)]),
    'deeplabv3_r50': ('deeplabv3_r50', [(512, 1024)]),
    'mit_b0': ('mit_b0', [(512, 512), (1024, 1024)]),
    'mit_b5': (
        'mmseg::segformer/segformer_mit-b5_8xb2-160k_ade20k-512x512.py',
        [(512, 512), (1024, 1024)],
    ),
    'hrnet': ('mmseg::hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024.py', [(512, 1024)]),
}
PRECISIONS = {
    'float32': [],
    'float32, channels-last': ['--channels-last'],
    'AMP': ['--amp'],
    'AMP, channels-last': ['--amp', '--channels-last'],
}
BUDGETS = [1, 2, 4, 10, 15]
OUT_OF_MEMORY = 'out of memory'


@dataclass(frozen=True)
class Case:
    """One run of the benchmark.

    Attributes:
        model: key of `MODELS`.
        size: of the images.
        batch: images per batch.
        precision: key of `PRECISIONS`.
    """

    model: str
    size: tuple[int, int]
    batch: int
    precision: str

    @property
    def cells(self) -> list[str]:
        """What it is, in the table."""
        return [self.model, ' x '.join(map(str, self.size)), str(self.batch), self.precision]

    @property
    def file(self) -> str:
        """Name of the file with what it found."""
        return '_'.join(self.cells).replace(', ', '-').replace(' ', '') + '.json'

    def flags(self, device: str, turns: int, budgets: Sequence[int]) -> list[str]:
        """Command line of `benchmarks.speed.run`."""
        words = ['--model', MODELS[self.model][0], '--methods', 'search', '--device', device]
        words += ['--size', *self.size, '--batch', self.batch, '--turns', turns]
        words += ['--budgets', *budgets, *PRECISIONS[self.precision]]
        return list(map(str, words))


def cases(models: Sequence[str], batches: Sequence[int], precisions: Sequence[str]) -> list[Case]:
    """All combinations, with every size of a model."""
    return [
        Case(model, size, batch, precision)
        for model in models
        for size, batch, precision in product(MODELS[model][1], batches, precisions)
    ]


def measure(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Report of one case: the one in the folder, or a new one.

    Args:
        case: what to measure.
        args: of this tool.
    """
    path = args.out / case.file
    words = case.flags(args.device, args.turns, args.budgets)
    words += ['--cfg-options', *args.cfg_options] * bool(args.cfg_options)
    known = read_results(path)
    if known.get('command') == words:
        return known
    options = run.parse_args(words)
    try:
        run.check_args(options)
        found = run.measure(options)
    except torch.cuda.OutOfMemoryError:
        found = dict(machine=timing.machine(torch.device(args.device)), records=OUT_OF_MEMORY)
        torch.cuda.empty_cache()
    found['command'] = words
    write_json(path, found)
    return found


def rows(found: Mapping[Case, Mapping[str, Any]]) -> Iterator[list[str]]:
    """Rows of the table of times."""
    for case, result in found.items():
        if result['records'] == OUT_OF_MEMORY:
            yield [*case.cells, OUT_OF_MEMORY, *['-'] * len(report.HEADER)]
            continue
        for record in result['records']:
            milliseconds = f'{record["seconds"] * 1000:.1f}'
            yield [*case.cells, milliseconds, *report.row(record)]


def waits(found: Mapping[Case, Mapping[str, Any]]) -> list[list[str]]:
    """Lines of Python at which a search waits for the GPU, and the most waits in one batch."""
    most: Counter[str] = Counter()
    for result in found.values():
        if result['records'] != OUT_OF_MEMORY:
            for record in result['records']:
                most |= Counter(record.get('waits', {}))  # the larger of both counts
    return [[line, str(count)] for line, count in most.most_common()]


def page(found: Mapping[Case, Mapping[str, Any]], checks: Mapping[str, str]) -> str:
    """The page in Markdown.

    Args:
        found: report of every case.
        checks: by title, what came of a check.
    """
    machine = next(iter(found.values()))['machine']
    named = ', '.join(f'{key} {value}' for key, value in machine.items())
    columns = ['model', 'size', 'batch', 'precision', 'ms', *report.HEADER]
    parts = [
        f'# Time and memory on {machine.get("gpu", machine["cpu"])}',
        f'Machine: {named}.',
        '\n'.join(markdown_table(columns, list(rows(found)))),
        '## Waits for the GPU in one batch, at most',
        '\n'.join(markdown_table(['line', 'waits'], waits(found))),
    ]
    for title, text in checks.items():
        parts += [f'## {title}', text]
    return '\n\n'.join(parts) + '\n'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--out', type=Path, default=Path('work_dirs/gpu'), help='folder of the page')
    add('--models', nargs='+', choices=MODELS, default=list(MODELS))
    add('--precisions', nargs='+', choices=PRECISIONS, default=list(PRECISIONS))
    add('--batches', type=int, nargs='+', default=[1, 8], help='images per batch')
    add('--budgets', type=int, nargs='+', default=BUDGETS, help='numbers of states, B')
    add('--turns', type=int, default=5, help='measurements of each (default: 5)')
    add('--device', default='cuda', help='cpu tries the tables without a GPU')
    add('--no-checks', action='store_true', help='tables alone')
    add('--cfg-options', nargs='+', default=[], help='as of benchmarks.speed.run')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    device = torch.device(args.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise MMDiscardError('no GPU can be used here; run this on a machine that has one')
    found, chosen = {}, cases(args.models, args.batches, args.precisions)
    progress = Progress(len(chosen), 'cases')
    for case in chosen:
        found[case] = measure(case, args)
        progress.step(case.file)
    checks = {} if args.no_checks else gpu_checks.all_checks(device, args.out)
    text = page(found, checks)
    write_text(args.out / 'page.md', text)
    sys.stdout.write(text)


if __name__ == '__main__':
    cli.run(main)
