"""Train a segmentor of `configs/camvid` on the CPU.

    python -m benchmarks.real.train CONFIG [--seed 0]

As MMSegmentation's own `tools/train.py`, on one thread, with the memory layout that is fast for
depthwise convolutions. Works in `work_dirs/real/NAME-seedN/`; an interrupted training goes on when
it is run again. In the end the weights are kept in half precision: `benchmarks/real/checkpoints`.
"""

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

CHECKPOINTS = Path('benchmarks/real/checkpoints')


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
    keep_half(runner.model, CHECKPOINTS / f'{Path(config.work_dir).name}.pth')
    return 0


def keep_half(model: nn.Module, path: Path) -> None:
    """Write what a test needs of a model, in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    torch.save({'state_dict': weights}, path)


if __name__ == '__main__':
    sys.exit(main())
