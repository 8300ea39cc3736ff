"""The most memory that a call holds at once, counted and not sampled.

PyTorch's profiler tells of every block that the allocator gives out and takes back; their running
sum is what is held. What was there before the call (weights, images) does not count; scratch memory
of kernels does. The figure is therefore the same in every run, unlike the resident size of the
process. On CUDA the allocator's own count is read.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch.autograd.profiler import profile

# The profiler reports its own stages on stderr unless told not to.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')


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
    with profile(profile_memory=True) as trace:
        call()
    events = trace.kineto_results.events()
    changes = (event.nbytes() for event in events if event.name() == '[memory]')
    return max(accumulate(changes, initial=0))


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
