"""Gates: end the search of an image once a prediction is confident."""

from os import PathLike

from torch import Tensor

from ..errors import MMDiscardError
from ..registry import GATES
from ..subsampling import Fingerprint, ModelFile
from ..utils import is_number
from .criteria import Signals

GATE_FILE = ModelFile(
    'mmdiscard gate', 1, '`python -m mmdiscard.calibrate CONFIG CHECKPOINT --gate ...`'
)


class Gate:
    """Ends the search of an image once one of its states is confident.

    Subclasses implement `uncertainty`, and `limit` where it is not the threshold itself.

    Args:
        threshold: in 0..1, see the subclass.
        file: file with a threshold that `mmdiscard.calibrate --gate` wrote, instead of
            ``threshold``.

    Raises:
        MMDiscardError: if the threshold is outside 0..1, if neither or both are given, or if the
            file cannot be read or was made for a gate of another type.
    """

    def __init__(self, threshold: float | None = None, file: str | PathLike | None = None) -> None:
        if (threshold is None) == (file is None):
            raise MMDiscardError(
                f'{type(self).__name__} takes either a threshold from 0 to 1 or a `file` that '
                'python -m mmdiscard.calibrate --gate wrote'
            )
        self.file = file
        self.made_for: Fingerprint | None = None
        self.threshold = _check(threshold) if file is None else self._read(file)

    def prepare(self, fingerprint: Fingerprint | None) -> None:
        """Check that the file of the threshold, if there is one, was made for this model.

        Raises:
            MMDiscardError: if not; names every difference.
        """
        if self.made_for is not None and fingerprint is not None:
            self.made_for.check(fingerprint, str(self.file))

    def uncertainty(self, signals: Signals) -> Tensor:
        """Uncertainty of each row, ``(M,)`` in 0..1; rows up to `limit` are confident."""
        raise NotImplementedError

    @property
    def limit(self) -> float:
        """Largest uncertainty of a confident row."""
        return self.threshold

    @classmethod
    def threshold_at(cls, limit: float) -> float:
        """The threshold whose `limit` is ``limit``."""
        return limit

    def confident(self, signals: Signals) -> Tensor:
        """Whether each row is confident, ``(M,)`` bool."""
        return self.uncertainty(signals).double() <= self.limit

    def _read(self, file: str | PathLike) -> float:
        self.made_for, content = GATE_FILE.read(file)
        if content.get('gate') != type(self).__name__:
            raise MMDiscardError(
                f'{file} was made for {content.get("gate")}, not for {type(self).__name__}'
            )
        try:
            return _check(content.get('threshold'))
        except MMDiscardError as error:
            raise GATE_FILE.damaged(file, error) from error


@GATES.register_module()
class EntropyGate(Gate):
    """Confident if the normalised entropy (dense: its mean) is at most ``threshold``."""

    def uncertainty(self, signals: Signals) -> Tensor:
        return signals.entropy()


@GATES.register_module()
class MarginGate(Gate):
    """Confident if the probability of the first class exceeds that of the second by ``threshold``.

    For dense outputs this is the mean over pixels.
    """

    def uncertainty(self, signals: Signals) -> Tensor:
        return 1 - signals.margin().double()

    @property
    def limit(self) -> float:
        return 1 - self.threshold

    @classmethod
    def threshold_at(cls, limit: float) -> float:
        return 1 - limit


def _check(threshold: object) -> float:
    if not is_number(threshold, 0, 1):
        raise MMDiscardError(f'a gate needs a threshold from 0 to 1; got {threshold!r}')
    return threshold
