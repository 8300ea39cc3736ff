"""Load the model of a config with its weights, to be used outside of a test loop."""

import zlib
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from ..errors import MMDiscardError
from ..models import unwrap
from .checkpoint import WeightCheck, check_checkpoint_file
from .config import make_plain, search_hook_of

SETTINGS = (
    'subsampling',
    'search',
    'aggregator',
    'max_rows',
    'max_cache_bytes',
    'self_test',
    'where',
)


def build_runner(cfg: Config, check_weights: bool = True) -> Runner:
    """The Runner that ``cfg`` describes, of the type that it names.

    It refuses weights of another model, also where mmdiscard's hook, which does too, was left out,
    unless ``check_weights`` is False.

    Raises:
        MMDiscardError: A ``type`` in the config names nothing that is registered.
    """
    try:
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except KeyError as error:
        if 'registry' not in str(error):
            raise
        raise MMDiscardError(
            f'{error.args[0]} Mind the spelling of `type`, and whether `custom_imports` names the '
            'package that has it'
        ) from error
    if check_weights:
        runner.register_hook(WeightCheck(), priority='VERY_HIGH')
    return runner


def search_settings(cfg: Config) -> dict[str, Any]:
    """The arguments that the config's `SubsamplingSearchHook` passes to `mmdiscard.attach`.

    Raises:
        MMDiscardError: if it has no such hook.
    """
    hook = search_hook_of(cfg)
    if hook is None:
        raise MMDiscardError(
            'the config has no SubsamplingSearchHook, which says what groups are searched and how '
            'states are merged; add one to custom_hooks'
        )
    settings = {name: hook[name] for name in SETTINGS if hook.get(name) is not None}
    return Config(settings).to_dict()


def load_runner(cfg: Config, checkpoint: str) -> Runner:
    """The config's Runner with the checkpoint in its model, plain and in evaluation mode.

    Raises:
        MMDiscardError: if the checkpoint does not belong to the model.
    """
    check_checkpoint_file(checkpoint)
    make_plain(cfg)
    cfg.load_from = checkpoint
    runner = build_runner(cfg)
    runner.call_hook('before_run')
    runner.load_or_resume()
    runner.call_hook('before_test')  # such as averaged weights that take the others' place
    runner.model.eval()
    return runner


@torch.no_grad()
def digest(model: nn.Module) -> str:
    """A hash of the weights, eight hexadecimal digits."""
    value = 0
    for name, tensor in sorted(unwrap(model).state_dict().items()):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensor.detach().cpu().contiguous().numpy().tobytes(), value)
    return f'{value:08x}'
