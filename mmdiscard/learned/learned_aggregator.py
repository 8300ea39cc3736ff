"""Base class of aggregators with parameters."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.runner.checkpoint import _load_checkpoint
from torch import Tensor, nn

from ..aggregation import Aggregator, MergeTarget
from ..errors import MMDiscardError
from ..subsampling import Fingerprint

#: key in a checkpoint: which aggregator and model the parameters are for
ENTRY = 'mmdiscard_aggregator'
#: prefix of its parameters in the state dict of an `AggregatorLearner`
PREFIX = 'aggregator.'
FORMAT = 1


class LearnedAggregator(Aggregator):
    """Aggregator with parameters for each merged tensor. Subclasses implement `build`.

    Args:
        on: see `Aggregator`.
        align: see `Aggregator`.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a file that
            `mmdiscard.train_aggregator` wrote; None for untrained parameters, which give the plain
            average.

    Attributes:
        module: the parameters, by index of the merged tensor; None before `prepare`.
        target: describes the model that they are for; None before `prepare`.

    Raises:
        MMDiscardError: if ``init_cfg`` is anything else.
    """

    def __init__(self, on: str, align: str, init_cfg: Mapping[str, Any] | None = None) -> None:
        super().__init__(on, align)
        self.checkpoint = _checkpoint_of(init_cfg)
        self.module: nn.ModuleDict | None = None
        self.target: MergeTarget | None = None

    def build(self, target: MergeTarget, index: int) -> nn.Module:
        """Untrained parameters for the tensor of that index among those that are merged.

        Raises:
            MMDiscardError: if this aggregator cannot merge that tensor.
        """
        raise NotImplementedError

    def prepare(self, describe: Callable[[], MergeTarget]) -> None:
        """Create and load the parameters, or check that existing ones fit the model.

        Raises:
            MMDiscardError: if the model, the checkpoint and this aggregator do not fit.
        """
        target = describe()
        if self.target is not None:
            self.target.fingerprint.check(target.fingerprint, 'the aggregator')
            self.target = target
            return
        read = [index for index, used in enumerate(target.read) if used]
        self.module = nn.ModuleDict({str(index): self.build(target, index) for index in read})
        self.target = target
        self.module.eval()
        if self.checkpoint is not None:
            self._load(self.checkpoint)

    def part(self, index: int, like: Tensor) -> nn.Module:
        """The parameters for one of the tensors, on the device of ``like``."""
        return self.module[str(index)].to(like.device)

    def entry(self) -> dict[str, Any]:
        """Content of a checkpoint under the key `ENTRY`: type and model of the parameters."""
        return dict(
            format=FORMAT,
            type=type(self).__name__,
            on=self.on,
            fingerprint=self.target.fingerprint.to_dict(),
        )

    def check_entry(self, checkpoint: Any, what: str) -> None:
        """Raise `MMDiscardError` unless a checkpoint is for this aggregator and its model."""
        entry = checkpoint.get(ENTRY) if isinstance(checkpoint, Mapping) else None
        if not isinstance(entry, Mapping):
            raise MMDiscardError(
                f'{what} holds no learned aggregator; make one with '
                'python -m mmdiscard.train_aggregator'
            )
        if entry.get('format') != FORMAT:
            raise MMDiscardError(
                f'{what} has format {entry.get("format")}, this version reads {FORMAT}; train again'
            )
        mine = (type(self).__name__, self.on)
        theirs = (entry.get('type'), entry.get('on'))
        if mine != theirs:
            raise MMDiscardError(
                f'{what} was trained for {theirs[0]}(on={theirs[1]!r}), the config has '
                f'{mine[0]}(on={mine[1]!r})'
            )
        Fingerprint.from_dict(entry.get('fingerprint')).check(self.target.fingerprint, what)

    def _load(self, path: str) -> None:
        checkpoint = _read(path)
        self.check_entry(checkpoint, path)
        weights = checkpoint.get('state_dict', {})
        weights = {
            key.removeprefix(PREFIX): value
            for key, value in weights.items()
            if key.startswith(PREFIX)
        }
        try:
            self.module.load_state_dict(weights)
        except RuntimeError as error:
            raise MMDiscardError(f'{path} does not fit the config: {error}') from error


def _checkpoint_of(init_cfg: Mapping[str, Any] | None) -> str | None:
    if init_cfg is None:
        return None
    known = isinstance(init_cfg, Mapping) and set(init_cfg) == {'type', 'checkpoint'}
    if not known or init_cfg['type'] != 'Pretrained':
        raise MMDiscardError(
            "init_cfg of an aggregator is dict(type='Pretrained', checkpoint=FILE); got "
            f'{init_cfg!r}'
        )
    return str(init_cfg['checkpoint'])


def _read(path: str) -> Any:
    try:
        return _load_checkpoint(path, map_location='cpu')
    except FileNotFoundError as error:
        raise MMDiscardError(
            f'no learned aggregator at {Path(path)}: train it first, with '
            'python -m mmdiscard.train_aggregator CONFIG CHECKPOINT, or name another file in '
            'aggregator.init_cfg.checkpoint'
        ) from error
    except Exception as error:  # unpickling can raise anything
        raise MMDiscardError(
            f'{path} is not a checkpoint: {type(error).__name__}: {error}'
        ) from error
