"""Tracing a backbone with an image that it takes: how many channels, which sizes."""

from torch import nn

from ..errors import MMDiscardError
from .backbone import Size, noise_image, plausible_channels
from .sizes import Sizes, TraceError, trace_sizes
from .strides import Trace, trace_strides

SMALL = (64, 96)  # of the image of the second forward, unless the user's is as small
OTHER_SIZES = (224, 256, 384, 512, 128, 64, 32, 299, 448, 518)  # for advice when one is refused


def trace_image(
    backbone: nn.Module, input_size: Size, in_channels: int | None, expected: int | None
) -> Trace:
    """The first trace that succeeds, over plausible numbers of channels if it is not given.

    Args:
        backbone: any module of images to feature maps.
        input_size: ``(H, W)`` of the image.
        in_channels: ``C`` of the image; None to try plausible numbers.
        expected: number to try first.

    Raises:
        MMDiscardError: if none succeeds.
    """
    numbers = [in_channels] if in_channels else plausible_channels(backbone, expected)
    failed: dict[int, TraceError] = {}
    for channels in numbers:
        try:
            return trace_strides(backbone, input_size, channels)
        except TraceError as error:
            failed[channels] = error
    channels = max(failed, key=lambda number: failed[number].calls)
    error = failed[channels].error
    raise MMDiscardError(
        f'{type(backbone).__name__} cannot be traced at input size {input_size} with {channels} '
        f'channels: {error}; {_advice(backbone, input_size, channels)}'
    ) from error


def channels_taken(backbone: nn.Module, input_size: Size, expected: int | None = None) -> int:
    """The first plausible number of channels that a backbone runs with.

    Args:
        backbone: in evaluation mode.
        input_size: ``(H, W)`` of the image to run with.
        expected: what to try first.

    Raises:
        MMDiscardError: if there is none.
    """
    guesses = plausible_channels(backbone, expected)
    for channels in guesses:
        if _runs(backbone, input_size, channels):
            return channels
    return trace_image(backbone, input_size, guesses[0], None).in_channels  # which says why


def _advice(backbone: nn.Module, input_size: Size, channels: int) -> str:
    """Advice for a backbone that could not be run: sizes and channels that it runs with."""
    if any(isinstance(module, nn.Conv3d) for module in backbone.modules()):
        return (
            'it seems to take clips or volumes; only backbones of images (N, C, H, W) are searched'
        )
    for other in plausible_channels(backbone):
        if _runs(backbone, input_size, other):
            return f'set `in_channels`={other}, with which it runs'
    for side in OTHER_SIZES:
        if _runs(backbone, (side, side), channels):
            return f'set `input_size` to a size that it accepts, such as {(side, side)}'
    return (
        'set `input_size` to a size that it accepts, or `in_channels` to the number of channels of '
        'its images'
    )


def _runs(backbone: nn.Module, input_size: Size, channels: int) -> bool:
    try:
        backbone(noise_image(backbone, input_size, channels))
    except Exception:  # whatever a backbone of others raises
        return False
    return True


def small_sizes(backbone: nn.Module, trace: Trace) -> Sizes:
    """Sizes for a small image with which the same layers run in the same order, else the trace's.

    The image is larger than it where no smaller one will do.
    """
    height, width = trace.input_size
    wide = (height, width + width // 2)
    size = SMALL if 2 * SMALL[0] * SMALL[1] < height * width else wide
    try:
        small = trace_sizes(backbone, size, trace.in_channels)
    except TraceError:
        return trace.sizes
    alike = small.sequence == trace.sizes.sequence and len(small.shapes) == len(trace.shapes)
    return small if alike else trace.sizes
