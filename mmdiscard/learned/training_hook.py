"""What the training of an aggregator needs of the runner."""

import random
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..registry import HOOKS
from .base import ENTRY, PREFIX
from .learner import AggregatorLearner

#: what the best parameters are called in the work dir
RESULT = 'aggregator.pth'


@HOOKS.register_module()
class AggregatorTrainingHook(Hook):
    """Makes a run resumable bit for bit, and its checkpoints loadable by an aggregator.

    Random numbers begin anew in every epoch, so an epoch does not depend on whether the run was
    interrupted before. A resumed run repeats the validation of the epoch it resumes from, which may
    have been cut off. At the end the best parameters are in `RESULT`, a few kilobytes.
    """

    priority = 'LOWEST'  # after the checkpoints are where they belong

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
        store = learner(runner).store
        if store is not None:
            store.save()
            runner.logger.info(
                f'mmdiscard: features of {store.hits} images came from the cache, those of '
                f'{store.misses} were computed'
            )
            store.hits = store.misses = 0

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[ENTRY] = learner(runner).ensemble.aggregator.entry()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        aggregator = learner(runner).ensemble.aggregator
        aggregator.check_entry(checkpoint, 'the checkpoint to resume from')

    def after_train(self, runner: Runner) -> None:
        store = learner(runner).store
        if store is not None:
            store.remove()
        barrier()
        if is_main_process():
            publish(runner)


def learner(runner: Runner) -> AggregatorLearner:
    """The learner of a runner, whether or not it is wrapped."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def publish(runner: Runner) -> Path:
    """Write the best parameters, or the last ones without validation; all or nothing."""
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
    torch.save(slim, path.with_suffix('.partial'))
    path.with_suffix('.partial').replace(path)
    runner.logger.info(f'mmdiscard: the aggregator of {Path(source).name} is in {path}')
    return path
