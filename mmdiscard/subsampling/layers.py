"""Properties of each kind of subsampling layer that the hooks need.

A new kind of subsampling layer is one `singledispatch` registration away; subclasses are covered.
"""

from functools import singledispatch

import torch
from torch import Tensor, nn

Pair = tuple[int, int]


def pair(value: int | tuple[int, ...]) -> Pair:
    """``k`` or ``(ky, kx)`` as ``(ky, kx)``."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


@singledispatch
def subsampling_factor(module: nn.Module) -> Pair:
    """Subsampling factor ``(Ry, Rx)`` of a layer; ``(1, 1)`` for one that does not subsample."""
    return (1, 1)


@subsampling_factor.register(nn.Conv2d)
@subsampling_factor.register(nn.MaxPool2d)
@subsampling_factor.register(nn.AvgPool2d)
@subsampling_factor.register(nn.Unfold)
def _(module: nn.Module) -> Pair:
    return pair(module.stride)


@singledispatch
def unsupported_because(module: nn.Module) -> str:
    """Why this layer cannot be displaced exactly; an empty string if it can."""
    return ''


@unsupported_because.register
def _(module: nn.Conv2d) -> str:
    if module.padding_mode == 'zeros':
        return ''
    return f'it pads with mode {module.padding_mode!r}, only zero padding translates exactly'


@unsupported_because.register
def _(module: nn.MaxPool2d) -> str:
    return 'it returns indices' if module.return_indices else ''


@singledispatch
def fill_value(module: nn.Module) -> float:
    """Padding value of a layer."""
    return 0.0


@fill_value.register
def _(module: nn.MaxPool2d) -> float:
    return float('-inf')


@singledispatch
def trim(module: nn.Module, output: Tensor, grid: Pair, shape: Pair, offsets: Tensor) -> Tensor:
    """Drop the output row and column that the extension brought, and mend the borders.

    Args:
        output: what the layer made of the extended input, ``(M, C, h, w)`` or ``(M, C, h * w)``.
        grid: 1 for each axis that was extended, else 0.
        shape: height and width of the input before extension.
        offsets: ``(M, 2)`` selection offset (dy, dx) of every row.
    """
    return _compact(output[..., grid[0] :, grid[1] :], like=output)


@trim.register
def _(module: nn.Unfold, output: Tensor, grid: Pair, shape: Pair, offsets: Tensor) -> Tensor:
    height, width = (
        _windows(size, kernel, stride, padding, dilation) + extra
        for size, kernel, stride, padding, dilation, extra in zip(
            shape,
            pair(module.kernel_size),
            pair(module.stride),
            pair(module.padding),
            pair(module.dilation),
            grid,
            strict=True,
        )
    )
    patches = output.unflatten(-1, (height, width))
    return patches[..., grid[0] :, grid[1] :].flatten(-2)


@trim.register
def _(module: nn.MaxPool2d, output: Tensor, grid: Pair, shape: Pair, offsets: Tensor) -> Tensor:
    output = _compact(output[..., grid[0] :, grid[1] :], like=output)
    # A window may hold no input at all: nothing is there, as in zero padding.
    return output.masked_fill_(output == float('-inf'), 0.0)


@trim.register
def _(module: nn.AvgPool2d, output: Tensor, grid: Pair, shape: Pair, offsets: Tensor) -> Tensor:
    output = _compact(output[..., grid[0] :, grid[1] :], like=output)
    if module.divisor_override is not None:
        return output
    for axis in (0, 1):
        ratio = _divisor_ratio(
            module, axis, grid[axis], shape[axis], output.shape[2 + axis], offsets
        )
        view = (-1, 1, output.shape[2], 1) if axis == 0 else (-1, 1, 1, output.shape[3])
        output = output * ratio.to(output).view(view)
    return output


def _divisor_ratio(
    module: nn.AvgPool2d, axis: int, grid: int, size: int, windows: int, offsets: Tensor
) -> Tensor:
    """Ratio of the divisor that the layer used to the right one, ``(M, windows)``.

    The layer counts the cells of the extended input; right is to count those of the image (and of
    the layer's own padding, if it counts padding).
    """
    kernel, padding, stride = (pair(value)[axis] for value in _geometry(module))
    shift = offsets[:, axis, None]
    start = torch.arange(windows) * stride + shift - padding
    margin = padding if module.count_include_pad else 0
    before, after = (stride - shift, shift) if grid else (shift * 0, shift * 0)
    counted = _overlap(start, kernel, -before - margin, size + after + margin)
    valid = _overlap(start, kernel, torch.tensor(-margin), torch.tensor(size + margin))
    return counted / valid.clamp(min=1)


def _geometry(module: nn.MaxPool2d | nn.AvgPool2d) -> tuple:
    return module.kernel_size, module.padding, module.stride


def _overlap(start: Tensor, length: int, low: Tensor, high: Tensor) -> Tensor:
    return (torch.minimum(start + length, high) - torch.maximum(start, low)).clamp(min=0)


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _compact(output: Tensor, like: Tensor) -> Tensor:
    """Dense memory again, for models that use ``view``; channels-last stays channels-last."""
    return output.contiguous(memory_format=memory_format(like))


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Channels-last or, for everything else, plain."""
    channels_last = not tensor.is_contiguous() and tensor.is_contiguous(
        memory_format=torch.channels_last
    )
    return torch.channels_last if channels_last else torch.contiguous_format
