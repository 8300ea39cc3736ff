"""The image as a group: states displace the image itself, in front of a backbone or a whole model.

State ``(dy, dx)`` of the group takes the image that begins ``dy`` and ``dx`` steps further down and
right. It needs nothing of a model but a call, at the price of one forward per state.
"""

from torch import Tensor, nn

from ..errors import MMDiscardError
from .state import SubsamplingGroup
from .subsampling_map import SubsamplingMap

IMAGE = 'image'
ROOT = ('',)  # the name of a module among its own modules
DEFAULT_PIXELS = 2  # by validation on a real pyramid segmentor, see docs/results.md


class ImageInput(nn.Module):
    """Returns its images: what is searched of a model that is taken as a whole.

    Args:
        model: gives device, precision and likely numbers of channels; it is not run.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """The same images ``(M, C, H, W)``."""
        return images


def image_group(pixels: int, levels: tuple[int, ...]) -> SubsamplingGroup:
    """The group of four states: displaced by 0 or ``pixels`` along both axes.

    Args:
        pixels: at least 1.
        levels: the output levels of what the image enters: all of them.

    Raises:
        MMDiscardError: if ``pixels`` is not a whole number of at least 1.
    """
    if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 1:
        raise MMDiscardError(
            f'groups=[dict(image=PIXELS)] takes whole pixels, at least 1; got {pixels!r}'
        )
    return SubsamplingGroup(IMAGE, ROOT, (2, 2), (pixels, pixels), levels)


def image_map(sample: Tensor) -> SubsamplingMap:
    """Subsampling map of `ImageInput`: one level of stride 1.

    Args:
        sample: noise as the model receives images, ``(1, C, H, W)``.
    """
    channels, *size = sample.shape[1:]
    return SubsamplingMap(
        groups=(),
        strides=((1, 1),),
        rejected={},
        input_size=tuple(size),
        in_channels=channels,
        small_size=tuple(size),
        shapes=(tuple(sample.shape),),
        channels_last=(False,),
        sample=(sample, (sample,)),
    )
