"""The most memory that a call holds at once, counted and not sampled.

On a CPU every operation that PyTorch runs is watched: the storage behind a new tensor counts from
the moment the operation returns it until the storage itself is freed. What was there before the
call (weights, images) does not count. The figure is therefore the same in every run and on every
machine, unlike the resident size of the process. What it leaves out is the scratch memory that a
kernel takes and gives back within one operation. On CUDA the allocator's own count is read, which
has that too.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


def peak_memory(call: Callable[[], object], device: str | torch.device = 'cpu') -> int:
    """Bytes that ``call`` holds at its peak beyond what was held before it.

    Args:
        call: is called once; its result is dropped.
        device: where its tensors live; tensors elsewhere are not counted on CUDA.
    """
    device = torch.device(device)
    with _no_collector():
        return _peak_on_cuda(call, device) if device.type == 'cuda' else _peak_on_cpu(call)


def _peak_on_cpu(call: Callable[[], object]) -> int:
    with LiveStorage() as live:
        call()
    return live.peak


def _peak_on_cuda(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without Python's cycle collector, whose moments depend on everything else in the process.

    Tensors in reference cycles count as held: nothing frees them at a known time.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of storage that operations make while it is active.

    Attributes:
        live: bytes held now.
        peak: the most that were held.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._held: dict[int, int] = {}  # by address of the storage; 0 bytes if not of the call

    def __torch_dispatch__(
        self,
        func: Callable,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            if storage._cdata not in self._held:
                self._watch(storage, 0)  # was there before the call
        result = func(*args, **kwargs)
        for storage in _storages(result):
            if storage._cdata not in self._held:
                self._watch(storage, storage.nbytes())
        return result

    def _watch(self, storage: torch.UntypedStorage, size: int) -> None:
        self._held[storage._cdata] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        # The storage's Python object lives as long as the memory, whoever holds it.
        weakref.finalize(storage, self._release, storage._cdata).atexit = False

    def _release(self, address: int) -> None:
        self.live -= self._held.pop(address)


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_flatten(tree)[0]:
        if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
            yield leaf.untyped_storage()
