"""Result of discovery for one backbone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import MMDiscardError
from .backbone import Size
from .dataflow import Dataflow
from .sizes import Shape, grows, spatial_size
from .state import SubsamplingGroup
from .strides import Layer


@dataclass(frozen=True)
class SubsamplingMap:
    """The subsampling groups of one backbone, and what else is known of its maps.

    Attributes:
        groups: trunk groups in execution order.
        strides: stride (Sy, Sx) in image pixels of every output level of the backbone; (0, 0) for
            an output that is not a map.
        rejected: strided layers that are not searched, and why.
        input_size: ``(H, W)`` of the image it was traced with.
        in_channels: channels of the images that the backbone takes.
        small_size: a smaller ``(H, W)`` at which the same layers run in the same order and maps
            have the same strides; ``input_size`` if none was found.
        shapes: of every output level for an image of ``input_size``.
        channels_last: by output level, whether it is a map ``(N, h, w, C)``.
        fixed: whether maps keep their size when the size of the image changes.
        unseen: strides that are the product of no layer's or module's factors: something subsamples
            inside a forward, where no hook can reach it.
        layers: all that subsamples: strided layers, then modules around what does.
        macs: multiply-accumulates of the backbone for an image of ``input_size``.
        deepest: the output level with the fewest cells.
        flow: what depends on what in the forward that was traced.
        sample: its image, and the output levels as the backbone returned them.
    """

    groups: tuple[SubsamplingGroup, ...]
    strides: tuple[Size, ...]
    rejected: dict[str, str]
    input_size: Size
    in_channels: int = 3
    small_size: Size = (0, 0)
    shapes: tuple[Shape, ...] = ()
    channels_last: tuple[bool, ...] = ()
    fixed: bool = False
    unseen: tuple[Size, ...] = ()
    layers: tuple[Layer, ...] = ()
    macs: int = 0
    deepest: int = 0
    flow: Dataflow | None = field(default=None, compare=False, repr=False)
    sample: tuple[Tensor, tuple[Tensor, ...]] | None = field(
        default=None, compare=False, repr=False
    )

    def macs_before(self, group: SubsamplingGroup) -> int:
        """Multiply-accumulates before the first member of a group."""
        inside = (layer.macs for layer in self.layers if layer.name in group.members)
        return min(inside, default=0)  # the image has no layer

    def left_out(self, shown: int = 3) -> list[str]:
        """Layers that are not searched, a line for each reason, with ``shown`` names at most."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.rejected.items():
            by_reason.setdefault(reason, []).append(f'`{name}`')
        lines = [f'{_some(names, shown)}: {reason}' for reason, names in by_reason.items()]
        if self.unseen:
            strides = ', '.join(str(stride[0]) for stride in self.unseen)
            lines.append(f'stride {strides} is reached inside a forward, by no layer or module')
        return lines

    def check_level_sizes(self, image_size: Size, levels: Sequence[Tensor]) -> None:
        """Check that maps grew with the image, as their strides say.

        Args:
            image_size: ``(H, W)`` of the images that the backbone received.
            levels: its outputs for them; maps are ``(N, C, h, w)``, whatever `channels_last` says.

        Raises:
            MMDiscardError: if a map has another size than its stride gives.
        """
        if image_size == self.input_size:
            return
        traced = map(spatial_size, self.shapes, self.channels_last)
        maps = zip(levels, traced, self.strides, strict=True)
        for index, (level, cells, stride) in enumerate(maps):
            if not any(stride):
                continue
            size = tuple(level.shape[2:])
            if self.fixed or not grows((image_size, self.input_size), (size, cells), stride):
                raise MMDiscardError(
                    f'the backbone gives {_by(size)} cells at level {index} for an image of '
                    f'{_by(image_size)} pixels, and {_by(cells)} for {_by(self.input_size)}, with '
                    'which it was traced: maps that do not grow with the image have no stride; set '
                    f'`input_size`={image_size} in `subsampling`, if all images have that size'
                )


class CheckedSizes:
    """A backbone whose output levels are checked once for every size of image.

    Args:
        forward: the backbone, images ``(M, C, H, W)`` to output levels.
        found: what their sizes are checked against.
    """

    def __init__(
        self, forward: Callable[[Tensor], tuple[Tensor, ...]], found: SubsamplingMap
    ) -> None:
        self.forward = forward
        self.found = found
        self._checked: set[Size] = set()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        levels = self.forward(images)
        size = tuple(images.shape[2:])
        if size not in self._checked:
            self.found.check_level_sizes(size, levels)
            self._checked.add(size)
        return levels


def _by(size: Size) -> str:
    return f'{size[0]}x{size[1]}'


def _some(names: Sequence[str], shown: int) -> str:
    more = f' and {len(names) - shown} more' if len(names) > shown else ''
    return ', '.join(names[:shown]) + more
