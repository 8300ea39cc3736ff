"""What attaching costs, in plain forwards of one image at the size that is traced.

    python -m benchmarks.speed.attach_cost                    # the models below
    python -m benchmarks.speed.attach_cost mmseg::hrnet/fcn_hr18_4xb4-160k_ade20k-512x512.py
    python -m benchmarks.speed.attach_cost configs/imagenet/*.py    # the groups that these search
    python -m benchmarks.speed.attach_cost --audited    # all backbones that the audit searches
    python -m benchmarks.speed.attach_cost --audited LeNet5 LeViT

CPU time of one thread with random weights. Every measurement stands between plain forwards, and is
divided by their median, so that a busy machine slows both; figures are medians over the turns. Of
audited backbones, attaching alone is measured, and what was measured is kept in a file, from which
an interrupted run goes on.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

import mmdiscard
from benchmarks.backbones.audit import model_around
from benchmarks.backbones.results import read_results
from benchmarks.backbones.run import RESULTS, Entry, entries
from benchmarks.common.tables import markdown_table
from benchmarks.speed.timing import build_model, read_model_config
from mmdiscard.engine.config import search_hook_of
from mmdiscard.models.ensemble import Ensemble
from mmdiscard.utils import read_json, report, write_json

CONFIGS = (
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    'mmpretrain::resnet/resnet101_8xb32_in1k.py',
    'mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py',
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
    'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py',
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-160k_ade20k-512x512.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'mmseg::segformer/segformer_mit-b5_8xb2-160k_ade20k-512x512.py',
    'mmseg::hrnet/fcn_hr18_4xb4-160k_ade20k-512x512.py',
    'mmseg::hrnet/fcn_hr48_4xb4-160k_ade20k-512x512.py',
)
SEARCH = dict(type='SpreadStates', budget=2)
PARTS = ('discovery', 'attach without self-test', 'attach')
OUT = Path('work_dirs/benchmark/attach_cost.json')
PLAIN_SECONDS = 0.02  # of plain forwards on each side of a measurement, three forwards at least
LONG = 1.0  # seconds; an audited backbone whose first attaching takes longer is measured by that


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU time of ``call``."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(
    model: nn.Module, size: int, groups: str | list[str], turns: int, brief: bool = False
) -> dict[str, float]:
    """Milliseconds of a plain forward, and what each of `PARTS` takes in such forwards.

    Args:
        model: a classifier or segmentor.
        size: side of the square image.
        groups: to search.
        turns: how often to measure, after attaching once, which warms up.
        brief: measure attaching alone; if it was `LONG`, that once is all.
    """
    for module in model.modules():  # MMPretrain's ResNet overrides `eval`
        module.training = False
    subsampling = dict(groups=groups, input_size=size)

    def attach(self_test: bool = True) -> Ensemble:
        ensemble = mmdiscard.attach(model, subsampling, SEARCH, self_test=self_test)
        ensemble.detach()
        return ensemble

    start = time.process_time()
    channels = attach().executor.forward.found.in_channels
    first = time.process_time() - start
    plain = partial(model.predict, torch.randn(1, channels, size, size))
    if brief and first > LONG:
        forward = statistics.median(_plain_seconds(plain))
        return {'forward': forward * 1000, 'attach': first / forward}
    discover = partial(mmdiscard.find_subsampling, model, (size, size))
    calls = dict(zip(PARTS, (discover, partial(attach, False), attach), strict=True))
    wanted = PARTS[-1:] if brief else PARTS
    measured = [_turn(plain, [calls[part] for part in wanted]) for _ in range(turns)]
    medians = map(statistics.median, zip(*measured, strict=True))
    return dict(zip(('forward', *wanted), medians, strict=True))


@torch.no_grad()
def _turn(plain: Callable[[], object], calls: Sequence[Callable[[], object]]) -> list[float]:
    """Milliseconds of a plain forward, and what ``calls`` take in forwards before and after."""
    before = _plain_seconds(plain)
    times = [cpu_seconds(call) for call in calls]
    forward = statistics.median(before + _plain_seconds(plain))
    return [forward * 1000, *(seconds / forward for seconds in times)]


def _plain_seconds(plain: Callable[[], object]) -> list[float]:
    """CPU times of forwards that last `PLAIN_SECONDS` together; three at least."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < PLAIN_SECONDS:
        times.append(cpu_seconds(plain))
    return times


def table_of_configs(configs: Sequence[str], turns: int) -> list[str]:
    """Lines of the table of configs; all groups, unless their hook names others."""
    rows = []
    for config in configs:
        cfg = read_model_config(config, {})[0]
        settings = (search_hook_of(cfg) or {}).get('subsampling') or {}
        size, groups = settings.get('input_size', (224, 224)), settings.get('groups', 'all')
        found = measure(build_model(cfg), size[0], groups, turns)
        ratios = (f'{found[part]:.1f}' for part in PARTS)
        rows.append([Path(config).stem, f'{found["forward"]:.0f}', *ratios])
        report(' '.join(rows[-1]))
    return markdown_table(['model', 'forward (ms)', *PARTS], rows)


def table_of_audited(only: Sequence[str], turns: int, out: Path) -> list[str]:
    """Lines of the table of the backbones that the audit searches.

    Args:
        only: names of some; all if it is empty.
        turns: see `measure`.
        out: file of what was measured; backbones in it are not measured again.
    """
    known = read_json(out) if out.is_file() else {}
    records = {record.key: record for record in read_results(RESULTS).records}
    rows = []
    for entry in entries(list(only)):
        record = records.get(entry[:2])
        groups = [group.name for group in record.groups if group.passed] if record else []
        if not groups:
            continue
        key = ' '.join(entry[:2])
        if key not in known:
            known[key] = measure_audited(entry, groups, turns)
            report(f'{key}: {known[key]}')
            write_json(out, known)
        rows.append([key, *_cells(known[key])])
    return markdown_table(['backbone', 'forward (ms)', 'attach (ms)', 'attach (forwards)'], rows)


def measure_audited(entry: Entry, groups: list[str], turns: int) -> dict:
    """What `measure` says of a model around a backbone; the error if there is one.

    Args:
        entry: of the audit.
        groups: to search.
        turns: see `measure`.
    """
    package, name, known = entry
    registered = 'TimmClassifier' if package == 'timm' else name.partition(' (')[0]
    config, size = dict(known['args'], type=registered), known['size']
    try:
        model = model_around(package, config, size, known['deploy'])
        return measure(model, size, groups, turns, brief=True)
    except Exception as error:  # whatever a backbone of others raises
        return {'error': f'{type(error).__name__}: {error}'[:80]}


def _cells(found: Mapping) -> list[str]:
    if 'error' in found:
        return [found['error'], '', '']
    forward, ratio = found['forward'], found['attach']
    return [f'{forward:.1f}', f'{forward * ratio:.0f}', f'{ratio:.1f}']


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('names', nargs='*', help='configs; with --audited, backbones')
    parser.add_argument('--audited', action='store_true', help='the backbones of the audit instead')
    parser.add_argument('--turns', type=int, default=5, help='measurements of each (default: 5)')
    parser.add_argument('--out', type=Path, default=OUT, help='file for --audited')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    if args.audited:
        lines = table_of_audited(args.names, args.turns, args.out)
    else:
        lines = table_of_configs(args.names or CONFIGS, args.turns)
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
