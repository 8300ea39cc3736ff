"""Train a segmentor of `configs/camvid` on the CPU.

    python -m benchmarks.real.train CONFIG [--seed 0]

As MMSegmentation's own `tools/train.py`, on one thread, with the memory layout that is fast for
depthwise convolutions. Works in `work_dirs/real/NAME-seedN/`; an interrupted training goes on when
it is run again. In the end the weights are kept in half precision: `benchmarks/real/checkpoints`.
"""

import argparse
import sys
from collections.abc import Mapping
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
    path = CHECKPOINTS / f'{Path(config.work_dir).name}.pth'
    keep_half(runner.model, runner.train_dataloader.dataset.metainfo, path)
    return 0


def keep_half(model: nn.Module, dataset_meta: Mapping, path: Path) -> None:
    """Write what tests and inferencers need of a model, in half precision.

    Args:
        model: trained.
        dataset_meta: names and colours of its classes.
        path: of the checkpoint.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    torch.save(dict(meta=dict(dataset_meta=dict(dataset_meta)), state_dict=weights), path)


if __name__ == '__main__':
    sys.exit(main())
