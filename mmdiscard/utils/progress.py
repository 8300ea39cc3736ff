"""Progress of a long job, with an estimate of the time left."""

import sys
import time

from mmengine.dist import is_main_process


class Progress:
    """Prints a line every few seconds, in the main process only.

    Args:
        total: number of steps.
        what: name of the steps.
        every: seconds between lines.
    """

    def __init__(self, total: int, what: str, every: float = 5.0) -> None:
        self.total = total
        self.what = what
        self.every = every
        self.done = 0
        self._start = self._shown = time.monotonic()

    def step(self, note: str = '') -> None:
        """Count one more step as done; a line is always printed after the last one."""
        self.done += 1
        now = time.monotonic()
        if now - self._shown < self.every and self.done < self.total:
            return
        self._shown = now
        left = (now - self._start) / self.done * (self.total - self.done)
        report(
            f'{self.what} {self.done}/{self.total}, about {_clock(left)} left{note and "; "}{note}'
        )


def report(text: str) -> None:
    """Print a line to standard error, in the main process only."""
    if is_main_process():
        print(f'mmdiscard: {text}', file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
