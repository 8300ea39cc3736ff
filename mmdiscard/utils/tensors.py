"""Small tensors on the way to a GPU."""

from torch import Tensor


def on_device_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor of the CPU, such as an index, copied to the device of ``like`` without a wait.

    The memory of ``tensor`` must not be pinned: then it has been read when the copy returns.
    """
    return tensor.to(like.device, non_blocking=True)
