"""Hook that makes the training of an aggregator resumable and writes its result."""

import random
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..registry import HOOKS
from ..utils import write_atomically
from .learned_aggregator import ENTRY, PREFIX
from .learner import AggregatorLearner

#: name of the file with the best parameters, in the work dir
RESULT = 'aggregator.pth'


@HOOKS.register_module()
class AggregatorTrainingHook(Hook):
    """Makes the training of an aggregator resumable bit for bit, and writes the best parameters.

    Random number generators are seeded before every epoch, so that an epoch does not depend on
    interruptions before it. A resumed run repeats the validation of the epoch that it resumes from,
    because that may have been interrupted. After training, the best parameters are written to
    ``aggregator.pth`` in the work dir.
    """

    priority = 'LOWEST'  # after `CheckpointHook`, whose files are read

    def before_train(self, runner: Runner) -> None:
        if runner.epoch > 0 and runner.val_loop is not None:
            runner.val_loop.run()

    def before_train_epoch(self, runner: Runner) -> None:
        seed = (runner.seed or 0, runner.epoch, get_rank())
        number = int(np.random.SeedSequence(seed).generate_state(1)[0])
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)

    def after_train_epoch(self, runner: Runner) -> None:
        cache = learner_of(runner).cache
        if cache is not None:
            runner.logger.info(
                f'mmdiscard: features of {cache.hits} images came from the cache, those of '
                f'{cache.misses} were computed'
            )
            cache.hits = cache.misses = 0

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[ENTRY] = learner_of(runner).ensemble.aggregator.entry()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        aggregator = learner_of(runner).ensemble.aggregator
        aggregator.check_entry(checkpoint, 'the checkpoint to resume from')

    def after_train(self, runner: Runner) -> None:
        cache = learner_of(runner).cache
        if cache is not None:
            cache.remove()
        barrier()
        if is_main_process():
            publish(runner)


def learner_of(runner: Runner) -> AggregatorLearner:
    """The `AggregatorLearner` of a runner, without its distributed wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def publish(runner: Runner) -> Path:
    """Write the best parameters (the last ones where there is no validation) to the work dir.

    Returns:
        The file.
    """
    info = runner.message_hub.runtime_info
    source = info.get('best_ckpt') or info['last_ckpt']
    checkpoint = torch.load(source, map_location='cpu', weights_only=False)
    weights = checkpoint['state_dict'].items()
    slim = {
        'state_dict': {key: value for key, value in weights if key.startswith(PREFIX)},
        ENTRY: checkpoint[ENTRY],
        'meta': {key: checkpoint['meta'][key] for key in ('epoch', 'seed', 'time')},
    }
    path = Path(runner.work_dir) / RESULT
    write_atomically(path, lambda partial: torch.save(slim, partial))
    runner.logger.info(f'mmdiscard: wrote {path}, the aggregator of {Path(source).name}')
    return path
