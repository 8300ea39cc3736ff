"""Windows of one size in the images of a batch: chosen, cut out and pasted back."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """Rectangles of one size in the images of a batch.

    Attributes:
        boxes: ``(image, top, left)`` of every window, in pixels, images ascending.
        size: ``(h, w)`` of a window, what is computed of it.
        halo: pixels at its inner edges that are computed and dropped.
        frame: ``(H, W)`` of the images.
    """

    boxes: tuple[tuple[int, int, int], ...]
    size: Size
    halo: int
    frame: Size

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def images(self) -> Tensor:
        """``(M,)`` long, the image of each window."""
        return torch.tensor([image for image, _, _ in self.boxes], dtype=torch.long)

    @property
    def area(self) -> float:
        """Area of a window, relative to that of the image."""
        return math.prod(self.size) / math.prod(self.frame)

    def of_image(self, index: int) -> list[list[int]]:
        """``[top, left, height, width]`` of the windows of one image."""
        return [[top, left, *self.size] for image, top, left in self.boxes if image == index]

    def crop(self, maps: Tensor) -> Tensor:
        """Cut the windows out of maps: ``(N, C, H, W)`` -> ``(M, C, h, w)``."""
        h, w = self.size
        return torch.cat([maps[i : i + 1, :, y : y + h, x : x + w] for i, y, x in self.boxes])

    def paste(self, maps: Tensor, values: Tensor) -> None:
        """Overwrite the windows in maps ``(N, C, H, W)`` in place, without their halo.

        The values are ``(M, C, h, w)``; of two windows that overlap, the first wins.
        """
        for (image, top, left), value in reversed(list(zip(self.boxes, values, strict=True))):
            (y0, y1), (x0, x1) = (
                kept_part(start, *lengths, self.halo)
                for start, lengths in zip(
                    (top, left), zip(self.size, self.frame, strict=True), strict=True
                )
            )
            inner = value[:, y0 - top : y1 - top, x0 - left : x1 - left]
            maps[image, :, y0:y1, x0:x1] = inner


def kept_part(start: int, size: int, length: int, halo: int) -> tuple[int, int]:
    """First pixel and end of what is kept of a window, along one axis of the image.

    The halo is dropped at inner edges only: nothing else covers the border of the image.

    Args:
        start: first pixel of the window.
        size: of the window.
        length: of the image.
        halo: width of the margin to drop.
    """
    stop = start + size
    return start + halo * (start > 0), stop - halo * (stop < length)


def choose_windows(
    uncertainty: Tensor,
    valid: Sequence[Size],
    counts: Sequence[int],
    size: Size,
    halo: int,
    step: Size,
) -> Windows:
    """Choose windows for every image by itself.

    One after the other: that with the largest sum of uncertainty in pixels that no window before it
    has.

    Args:
        uncertainty: ``(N, H, W)``, at least 0.
        valid: ``(H, W)`` of every image without padding.
        counts: how many windows every image gets, fewer where nothing else is uncertain.
        size: ``(h, w)`` of the windows.
        halo: see `Windows`.
        step: windows begin at multiples of it; those at the far border end there.
    """
    frame = tuple(uncertainty.shape[1:])
    axes = [_Axis(*lengths, halo) for lengths in zip(frame, size, step, strict=True)]
    cells = _sums(uncertainty.detach(), valid, (axes[0].unit, axes[1].unit)).cpu().double()
    boxes = [
        (image, top, left)
        for image, own in enumerate(cells)
        for top, left in _places(own, axes, counts[image])
    ]
    return Windows(tuple(boxes), size, halo, frame)


class _Axis:
    """Possible positions of windows along one axis, in pixels and in cells of ``unit`` pixels."""

    def __init__(self, length: int, size: int, step: int, halo: int) -> None:
        last = length - size
        unit = self.unit = math.gcd(halo or step, step)
        self.starts = [*range(0, last, step), last]
        kept = [kept_part(start, size, length, halo) for start in self.starts]
        # Whole cells alone, so that nothing is taken for covered that is not; at the far border the
        # last cell may be cut.
        self.first = torch.tensor([math.ceil(start / unit) for start, _ in kept])
        self.end = torch.tensor(
            [math.ceil(stop / unit) if stop == length else stop // unit for _, stop in kept]
        )


def _places(cells: Tensor, axes: Sequence[_Axis], count: int) -> Iterator[tuple[int, int]]:
    """Up to ``count`` places ``(top, left)``, each with the most of what none before it covers.

    ``cells`` ``(h, w)`` are sums of uncertainty, and are overwritten.
    """
    rows, columns = axes
    for _ in range(count):
        total = F.pad(cells.cumsum(0).cumsum(1), (1, 0, 1, 0))
        strips = total[rows.end] - total[rows.first]
        gains = strips[:, columns.end] - strips[:, columns.first]
        row, column = divmod(int(gains.argmax()), len(columns.starts))
        if gains[row, column] <= 0:
            return
        cells[rows.first[row] : rows.end[row], columns.first[column] : columns.end[column]] = 0
        yield rows.starts[row], columns.starts[column]


def _sums(uncertainty: Tensor, valid: Sequence[Size], unit: Size) -> Tensor:
    """Sums over cells of ``unit`` pixels, padding left out: ``(N, H, W)`` -> ``(N, h, w)``."""
    inside = torch.zeros_like(uncertainty)
    for image, (height, width) in enumerate(valid):
        inside[image, :height, :width] = uncertainty[image, :height, :width]
    padding = [-side % each for side, each in zip(inside.shape[1:], unit, strict=True)]
    padded = F.pad(inside, (0, padding[1], 0, padding[0]))
    return padded.unflatten(2, (-1, unit[1])).unflatten(1, (-1, unit[0])).sum((2, 4))
