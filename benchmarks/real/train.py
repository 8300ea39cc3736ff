"""Train a segmentor of `configs/camvid` on the CPU.

    python -m benchmarks.real.train CONFIG [--seed 0]

As MMSegmentation's own `tools/train.py`, on one thread, with the memory layout that is fast for
depthwise convolutions. Writes `work_dirs/real/NAME-seedN/`; an interrupted training goes on when it
is run again.
"""

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    config = Config.fromfile(args.config)
    config.work_dir = f'work_dirs/real/{args.config.stem}-seed{args.seed}'
    config.randomness = dict(seed=args.seed)
    config.resume = (Path(config.work_dir) / 'last_checkpoint').is_file()
    runner = Runner.from_cfg(config)
    runner.model.to(memory_format=torch.channels_last)
    runner.train()
    return 0


if __name__ == '__main__':
    sys.exit(main())
