"""What predictions take, in time and in memory, in units of the plain model's.

    python -m benchmarks.speed.run CONFIG --methods search naive tta --budgets 4 10
    python -m benchmarks.speed.run --model resnet50 --out work_dirs/resnet50.json

Weights are random and images are noise. Methods take turns in one run, between predictions of the
plain model; a ratio is the median over the turns. docs/benchmark.md says what the columns mean.
"""

import argparse
import time
from pathlib import Path

import torch

from benchmarks.speed import timing
from benchmarks.speed.methods import METHODS, BenchmarkSetup
from benchmarks.speed.report import check_figure, draw_benchmark, page
from mmdiscard.engine import cli
from mmdiscard.engine.config import apply_options
from mmdiscard.errors import MMDiscardError
from mmdiscard.utils import write_json, write_text

NOT_SETTINGS = (
    'budgets',
    'methods',
    'device',
    'threads',
    'out',
    'figure',
)  # in the table, or of the machine
FAST = ['plain', 'search', 'spread', 'deepest']


NAMED_MODELS = {
    'resnet50': timing.NamedModel('mmpretrain::resnet/resnet50_8xb32_in1k.py', (224, 224), 8),
    'mit_b0': timing.NamedModel(
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', (512, 512), 2
    ),
    # Its dilated backbone subsamples three times, so that there is but one inner group.
    'deeplabv3_r50': timing.NamedModel(
        'mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024.py', (512, 1024), 1, 'all'
    ),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', nargs='?', help='a config; its SubsamplingSearchHook, if any, is measured')
    add(
        '--model',
        help=f'instead of a config: {", ".join(NAMED_MODELS)}, or a config of an MM '
        'package, such as mmpretrain::resnet/resnet18_8xb32_in1k.py',
    )
    add('--budgets', type=int, nargs='+', default=[4, 10, 15], help='numbers of states, B')
    add('--methods', nargs='+', default=FAST, help=f'plain, {", ".join(METHODS)}, or all')
    add('--groups', nargs='+', help='groups to search: inner, all, or names or positions')
    add('--batch', type=int, help='images per batch')
    add('--size', type=int, nargs=2, metavar=('H', 'W'), help='size of the images')
    add('--classes', type=int, help='number of classes of the head')
    add('--turns', type=int, default=7, help='measurements of each (default: 7)')
    add('--threads', type=int, help='threads of PyTorch')
    add('--cpu-time', action='store_true', help='CPU time instead of the clock; needs --threads 1')
    add('--device', default='cpu', help='cpu, cuda, cuda:1, ...')
    add('--amp', action='store_true', help='mixed precision')
    add('--channels-last', action='store_true', help='memory format of model and images')
    add('--max-rows', type=int, help='rows in flight (default: as attach)')
    add('--max-cache-bytes', type=int, help='bytes kept for reuse (default: as attach)')
    add('--no-memory', action='store_true', help='measure time alone')
    add('--no-time', action='store_true', help='measure peak memory alone')
    add('--out', type=Path, help='file for the figures (.json); the table goes beside it (.md)')
    add('--figure', type=Path, help='file for a picture (.png, .svg, .pdf)')
    cli.add_config_options(parser)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Everything that can be wrong before there is a model.

    Raises:
        MMDiscardError: names the flag.
    """
    if bool(args.config) == bool(args.model):
        raise MMDiscardError('name a config, or a model with --model: one of the two')
    if args.no_memory and args.no_time:
        raise MMDiscardError('--no-memory and --no-time together leave nothing to measure')
    if 'all' in args.methods:
        args.methods = ['plain', *METHODS]
    if args.cpu_time and (args.threads != 1 or args.device != 'cpu'):
        raise MMDiscardError('--cpu-time is of one thread on the CPU: add --threads 1')
    unknown = [name for name in args.methods if name not in ('plain', *METHODS)]
    if unknown:
        raise MMDiscardError(
            f'unknown method {unknown[0]!r}; choose from plain, {", ".join(METHODS)}, or all'
        )
    counts = dict(batch=args.batch, classes=args.classes, turns=args.turns, threads=args.threads)
    counts |= dict(size=args.size and min(args.size), budgets=min(args.budgets))
    for name, value in counts.items():
        if value is not None and value < 1:
            raise MMDiscardError(f'--{name} has to be at least 1; got {value}')
    if args.figure:
        check_figure(args.figure)
    for path in filter(None, (args.out, args.figure)):
        path.parent.mkdir(parents=True, exist_ok=True)


def make_setup(args: argparse.Namespace) -> BenchmarkSetup:
    """Model, images and settings as the flags say."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = timing.check_device(args.device)
    cfg, known = timing.read_model_config(args.config or args.model, NAMED_MODELS)
    apply_options(cfg, args.cfg_options, args.config or args.model)
    if args.classes:
        timing.set_classes(cfg.model, args.classes)
    settings = dict(subsampling=dict(groups=known.groups)) | timing.hook_settings(cfg)
    if args.groups:
        settings['subsampling'] = dict(groups=groups(args.groups))
    flags = dict(max_rows=args.max_rows, max_cache_bytes=args.max_cache_bytes)
    settings |= {key: value for key, value in flags.items() if value is not None}
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    torch.manual_seed(0)
    model = timing.build_model(cfg).to(device, memory_format=layout)
    shape = (args.batch or known.batch, 3, *(args.size or known.size))
    images = torch.randn(shape).to(device, memory_format=layout)
    return BenchmarkSetup(model, images, settings, cfg, args.amp)


def groups(words: list[str]) -> str | list[str | int]:
    """``inner``, ``all``, or a list of names and positions."""
    if words in (['inner'], ['all']):
        return words[0]
    return [int(word) if word.lstrip('-').isdigit() else word for word in words]


def measure(args: argparse.Namespace) -> dict:
    """The whole report: machine, settings, records."""
    setup = make_setup(args)
    device = setup.images.device
    methods = [name for name in dict.fromkeys(args.methods) if name != 'plain']
    timed = timing.prepare_methods(setup, methods, args.budgets)
    calls = [method.predict for method in timed]
    times = peaks = waits = None
    if not args.no_time:
        clock = time.process_time if args.cpu_time else time.perf_counter
        times = timing.time_turns(setup.plain, calls, args.turns, device, clock)
    if not args.no_memory:
        peaks = timing.measure_peaks([setup.plain, *calls], device)
    if device.type == 'cuda':
        waits = [timing.count_waits(call, device) for call in (setup.plain, *calls)]
    return dict(
        machine=timing.machine(device),
        settings=settings_of(args, setup),
        records=list(timing.records(timed, times, peaks, waits)),
    )


def settings_of(args: argparse.Namespace, setup: BenchmarkSetup) -> dict[str, str | int]:
    """What was measured, in words that JSON can hold."""
    left_out = (*NOT_SETTINGS, 'turns') if args.no_time else NOT_SETTINGS
    chosen = {
        key: str(value)
        for key, value in vars(args).items()
        if value not in (None, False) and key not in left_out
    }
    size = ' x '.join(map(str, setup.images.shape[2:]))
    return chosen | dict(batch=len(setup.images), size=size, search=str(setup.search))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_args(args)
    report = measure(args)
    print('\n' + page(report))
    if args.out:
        write_json(args.out, report)
        write_text(args.out.with_suffix('.md'), page(report))
    if args.figure:
        draw_benchmark(report, args.figure)


if __name__ == '__main__':
    cli.run(main)
