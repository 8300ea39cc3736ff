"""What attaching costs, in plain forwards of one image at the size that is traced.

    python -m benchmarks.speed.attach_cost                    # the models below
    python -m benchmarks.speed.attach_cost mmseg::hrnet/fcn_hr18_4xb4-160k_ade20k-512x512.py
    python -m benchmarks.speed.attach_cost --audited    # all backbones that the audit searches

CPU time of one thread with random weights. Every measurement stands between plain forwards, and is
divided by their time, so that a busy machine slows both; figures are medians over the turns.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn

import mmdiscard
from benchmarks.backbones.audit import model_around
from benchmarks.backbones.results import read_results
from benchmarks.backbones.run import RESULTS, entries
from benchmarks.common.tables import markdown_table
from benchmarks.speed.timing import build_model, read_model_config
from mmdiscard.models import searched_module
from mmdiscard.subsampling import map_subsampling
from mmdiscard.utils import report

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
COLUMNS = ['forward (ms)', 'discovery', 'attach without self-test', 'attach']


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU time of ``call``."""
    start = time.process_time()
    call()
    return time.process_time() - start


@torch.no_grad()
def measure(model: nn.Module, size: int, groups: str | list[str], turns: int) -> list[str]:
    """A row of the table without its name.

    Args:
        model: a classifier or segmentor.
        size: side of the square image.
        groups: to search.
        turns: how often to measure, after one turn that warms up.
    """
    for module in model.modules():  # MMPretrain's ResNet overrides `eval`
        module.training = False
    channels = map_subsampling(searched_module(model), (size, size)).in_channels
    plain = partial(model.predict, torch.randn(1, channels, size, size))
    subsampling = dict(groups=groups, input_size=size)

    def attach(self_test: bool) -> None:
        mmdiscard.attach(model, subsampling, SEARCH, self_test=self_test).detach()

    calls = (
        partial(mmdiscard.find_subsampling, model, (size, size)),
        partial(attach, False),
        partial(attach, True),
    )
    forwards, ratios = [], []
    for _ in range(turns + 1):
        before = [cpu_seconds(plain) for _ in range(3)]
        times = [cpu_seconds(call) for call in calls]
        forward = statistics.median([*before, *(cpu_seconds(plain) for _ in range(3))])
        forwards.append(forward)
        ratios.append([seconds / forward for seconds in times])
    medians = map(statistics.median, zip(*ratios[1:], strict=True))  # the first turn warms up
    return [f'{min(forwards) * 1000:.0f}', *(f'{ratio:.1f}' for ratio in medians)]


def measure_config(config: str, turns: int) -> list[str]:
    """The row of a config of an MM package."""
    model = build_model(read_model_config(config, {})[0])
    return [Path(config).stem, *measure(model, 224, 'all', turns)]


def measure_audited(turns: int) -> Iterator[list[str]]:
    """Rows of all backbones with groups that the audit searches."""
    records = {record.key: record for record in read_results(RESULTS).records}
    for package, name, known in entries():
        record = records.get((package, name))
        groups = [group.name for group in record.groups if group.passed] if record else []
        if not groups:
            continue
        registered = 'TimmClassifier' if package == 'timm' else name.partition(' (')[0]
        config, size = dict(known['args'], type=registered), known['size']
        try:
            model = model_around(package, config, size, known['deploy'])
            row = [f'{package} {name}', *measure(model, size, groups, turns)]
        except Exception as error:  # whatever a backbone of others raises
            row = [f'{package} {name}', f'{type(error).__name__}: {error}'[:80], '', '', '']
        report(' '.join(row))
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', default=CONFIGS)
    parser.add_argument('--audited', action='store_true', help='the backbones of the audit instead')
    parser.add_argument('--turns', type=int, default=5, help='measurements of each (default: 5)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    if args.audited:
        rows = list(measure_audited(args.turns))
    else:
        rows = [measure_config(config, args.turns) for config in args.configs]
    print('\n'.join(markdown_table(['model', *COLUMNS], rows)))


if __name__ == '__main__':
    main()
