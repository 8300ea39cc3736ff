"""Replacing a method of one module instance, so that it can be put back exactly."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class MethodPatch:
    """An instance attribute of a module that stands in for one of its methods until `remove`.

    Class, parameters and buffers of the module stay as they are. Every thread may redirect calls
    on its own. Copies and pickles of the module hold the original method, bound to the copy.

    Args:
        module: gets an instance attribute ``name``.
        name: of the method.
        handler: called instead of the method; None for the method itself.

    Attributes:
        original: the method as it was found: of the class, or the user's own instance attribute.
    """

    def __init__(self, module: nn.Module, name: str, handler: Callable | None = None) -> None:
        self.module = module
        self.name = name
        self.original = getattr(module, name)
        self._was_own = name in vars(module)
        self._handler = handler
        self._of_thread = threading.local()
        setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        redirected = getattr(self._of_thread, 'handlers', None)
        handler = redirected[-1] if redirected else self._handler or self.original
        return handler(*args, **kwargs)

    @contextmanager
    def redirect(self, handler: Callable) -> Iterator[None]:
        """Call ``handler`` instead, in this thread and within this context."""
        handlers = vars(self._of_thread).setdefault('handlers', [])
        handlers.append(handler)
        try:
            yield
        finally:
            handlers.pop()

    def remove(self) -> None:
        """Put back what was there.

        Where another patch was laid over this one, it stays and calls what this one replaced.
        """
        current = vars(self.module).get(self.name)
        if current is self:
            self._restore()
            return
        while isinstance(current, MethodPatch) and current.original is not self:
            current = current.original
        if isinstance(current, MethodPatch):
            current.original, current._was_own = self.original, self._was_own
        self._handler = None  # the user's own function may still call this object

    def _restore(self) -> None:
        if self._was_own:
            setattr(self.module, self.name, self.original)
        else:
            delattr(self.module, self.name)

    def __deepcopy__(self, memo: dict) -> Any:
        if self._was_own:
            return copy.deepcopy(self.original, memo)
        return _class_method(copy.deepcopy(self.module, memo), self.name)

    def __reduce__(self) -> tuple:
        if self._was_own:
            return _identity, (self.original,)
        return _class_method, (self.module, self.name)


def _class_method(module: nn.Module, name: str) -> Any:
    return getattr(type(module), name).__get__(module)


def _identity(value: Any) -> Any:
    return value
