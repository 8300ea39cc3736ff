"""Capture the arguments that a module is called with, before the user's own hooks change them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class InputWatch:
    """A forward pre-hook that runs before all others, for the calls of one thread at a time.

    In copies and pickles of the module it does nothing.
    """

    def __init__(self, module: nn.Module) -> None:
        self._of_thread = threading.local()
        self._handle = module.register_forward_pre_hook(
            self._called, prepend=True, with_kwargs=True
        )

    def received(self, call: Callable[[], Any]) -> tuple[tuple, dict]:
        """Arguments of the first call of the module that ``call`` makes; ``call`` ends there.

        Raises:
            LookupError: if it makes none.
        """

        def stop(args: tuple, kwargs: dict) -> None:
            raise _Called(args, kwargs)

        try:
            with self._watching(stop):
                call()
        except _Called as found:
            return found.args
        raise LookupError('the module is not called')

    @contextmanager
    def recorded(self) -> Iterator[list[tuple[tuple, dict]]]:
        """Arguments of every call within the context."""
        calls = []
        with self._watching(lambda args, kwargs: calls.append((args, kwargs))):
            yield calls

    def remove(self) -> None:
        """Watch no more."""
        self._handle.remove()

    @contextmanager
    def _watching(self, see: Callable[[tuple, dict], None]) -> Iterator[None]:
        self._of_thread.see = see
        try:
            yield
        finally:
            del self._of_thread.see

    def _called(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        see = getattr(self._of_thread, 'see', None)
        if see is not None:
            see(args, kwargs)

    def __deepcopy__(self, memo: dict) -> 'InputWatch':
        return InputWatch(nn.Identity())

    def __reduce__(self) -> tuple:
        return InputWatch, (nn.Identity(),)


class _Called(Exception):
    """Carries the arguments of a call out of the model's code."""
