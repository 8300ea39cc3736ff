"""What states cost on a model whose backbone was compiled, beside one that never was.

    python -m benchmarks.speed.compiled    # needs a C++ compiler

Random weights, one image, one thread, medians of CPU time in plain forwards that were not compiled.
"""

import argparse
import logging
import time
from functools import partial

import torch
from torch import nn

from benchmarks.common.tables import markdown_table
from benchmarks.speed.methods import BenchmarkSetup
from benchmarks.speed.run import NAMED_MODELS
from benchmarks.speed.timing import build_model, read_model_config, time_turns
from mmdiscard.models import attach

SEARCH = dict(type='SpreadStates', budget=2)
ROWS = ('plain', '2 states', 'compiled backbone', 'the same, 2 states')


def measure(name: str, turns: int) -> list[str]:
    """What each of `ROWS` takes in forwards of the model as it is.

    Args:
        name: of a model of `benchmarks.speed.run`.
        turns: how often each is measured.
    """
    cfg, known = read_model_config(name, NAMED_MODELS)
    setup = BenchmarkSetup(build_model(cfg), torch.randn(1, 3, *known.size), {}, cfg)
    compiled, before = with_compiled_backbone(setup), with_compiled_backbone(setup)
    searched = setup.copy()
    for model in (searched, before):
        subsampling = dict(groups=known.groups, input_size=known.size)
        attach(model, subsampling, SEARCH)
    models = (searched, compiled, before)
    calls = [partial(setup.run, model.predict, setup.images) for model in models]
    times = time_turns(setup.plain, calls, turns, setup.images.device, time.process_time)
    return [f'{one.record()["ratio"]:.2f}' for one in times]


def with_compiled_backbone(setup: BenchmarkSetup) -> nn.Module:
    """A copy whose backbone is compiled, and has run."""
    model = setup.copy()
    model.backbone = torch.compile(model.backbone)
    for _ in range(2):
        setup.run(model.predict, setup.images)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('models', nargs='*', default=['resnet50', 'mit_b0'])
    parser.add_argument('--turns', type=int, default=7, help='measurements of each (default: 7)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    rows = [[name, *measure(name, args.turns)] for name in args.models]
    print('\n'.join(markdown_table(['model', *ROWS], rows)))


if __name__ == '__main__':
    main()
