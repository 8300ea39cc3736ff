"""Draw one cluttered scene from scanned 8 x 8 digits.

Everything here works on float32 images in [0, 1], shape ``(size, size, 3)``, channel order BGR (as
OpenCV writes them), and takes its randomness from the ``numpy.random.Generator`` it is given.
"""

from __future__ import annotations

import cv2
import numpy as np

BACKGROUND = 0
"""Pixel label of everything that is not a whole digit. Digit k has label k + 1."""


def compose_scene(
    glyphs: np.ndarray,
    digits: np.ndarray,
    fragments: np.ndarray,
    size: int,
    glyph_px: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Compose one scene.

    Args:
        glyphs: ink of the whole digits, ``(n, 8, 8)`` in [0, 1].
        digits: which digit each of them is, ``(n,)`` in 0..9.
        fragments: ink of digits of which only a part is drawn, as clutter, ``(m, 8, 8)``.
        size: height and width of the scene in pixels.
        glyph_px: smallest and largest height of a digit in pixels.
        rng: source of all randomness.

    Returns:
        The image, uint8 ``(size, size, 3)``, and the pixel labels, uint8 ``(size, size)`` in 0..10.
        A digit for which no free place is found is left out.
    """
    image = _background(size, rng)
    for _ in range(int(rng.integers(1, 5))):
        _blend(image, _stroke(size, rng), rng)
    for glyph in fragments:
        centre = rng.uniform(0, size, 2)
        ink = _warp(glyph, centre, rng.uniform(*glyph_px), size, rng)
        _blend(image, ink * _half_plane(size, centre, rng), rng)
    labels = np.full((size, size), BACKGROUND, np.uint8)
    for glyph, digit, centre, height in _place(glyphs, digits, size, glyph_px, rng):
        ink = _warp(glyph, centre, height, size, rng)
        _blend(image, ink, rng)
        labels[ink > 0.5] = digit + 1
    image += rng.normal(0, rng.uniform(0.01, 0.05), image.shape).astype(np.float32)
    return np.clip(image * 255, 0, 255).astype(np.uint8), labels


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A two-colour gradient in a random direction plus smooth blotches."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    ramp = np.clip(0.5 + columns * np.cos(angle) + rows * np.sin(angle), 0, 1)[..., None]
    first, second = rng.uniform(0.4, 1.0, (2, 3))
    blotches = rng.normal(0, 0.08, (6, 6, 3)).astype(np.float32)
    smooth = cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC)
    return (first * ramp + second * (1 - ramp)).astype(np.float32) + smooth


def _stroke(size: int, rng: np.random.Generator) -> np.ndarray:
    """Coverage in [0, 1] of one pen stroke: a random arc, one to four pixels wide."""
    canvas = np.zeros((size, size), np.uint8)
    centre = tuple(int(v) for v in rng.uniform(0, size, 2))
    axes = tuple(int(v) for v in rng.uniform(0.05, 0.5, 2) * size)
    start = rng.uniform(0, 360)
    cv2.ellipse(
        canvas,
        centre,
        axes,
        rng.uniform(0, 180),
        start,
        start + rng.uniform(40, 200),
        255,
        int(rng.integers(1, 5)),
        cv2.LINE_AA,
    )
    return canvas.astype(np.float32) / 255


def _half_plane(size: int, centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coverage of a half-plane through ``centre`` (x, y): cuts a digit into a fragment."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:size, 0:size]
    side = (columns - centre[0]) * np.cos(angle) + (rows - centre[1]) * np.sin(angle)
    return np.clip(side + 0.5, 0, 1).astype(np.float32)


def _place(glyphs, digits, size, glyph_px, rng):
    """Yield (glyph, digit, centre (x, y), height) for each digit that finds a free place."""
    taken: list[tuple[np.ndarray, float]] = []
    for glyph, digit in zip(glyphs, digits, strict=True):
        height = rng.uniform(*glyph_px)
        for centre in rng.uniform(0.45 * height, size - 0.45 * height, (20, 2)):
            if all(np.hypot(*(centre - c)) > 0.45 * (height + h) for c, h in taken):
                taken.append((centre, height))
                yield glyph, int(digit), centre, height
                break


def _warp(glyph, centre, height, size, rng) -> np.ndarray:
    """Coverage in [0, 1] of one digit, upscaled smoothly, slightly turned and squeezed."""
    angle, scale = rng.uniform(-0.25, 0.25), height / glyph.shape[0]
    squeeze = np.diag(np.array([rng.uniform(0.85, 1.15), 1.0]) * scale)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ squeeze
    middle = (np.array(glyph.shape[::-1]) - 1) / 2
    affine = np.concatenate([matrix, (centre - matrix @ middle)[:, None]], axis=1)
    ink = cv2.warpAffine(glyph, affine, (size, size), flags=cv2.INTER_CUBIC)
    # Half ink is the edge of the pen; the ramp around it is about one pixel at a usual scale.
    return np.clip((ink - 0.5) * 0.5 * scale + 0.5, 0, 1)


def _blend(image: np.ndarray, ink: np.ndarray, rng: np.random.Generator) -> None:
    """Paint ``ink`` in a random colour darker than what lies beneath, in place."""
    left, top, width, height = cv2.boundingRect((ink > 0).astype(np.uint8))
    window = np.s_[top : top + height, left : left + width]
    weight = ink[window][..., None]
    beneath = (image[window] * weight).sum() / max(3 * float(weight.sum()), 1e-3)
    # Ink nobody could see would be noise in the labels: keep a least difference in brightness.
    colour = rng.uniform(0, 0.6, 3)
    colour += beneath - rng.uniform(0.25, 0.6) - colour.mean()
    image[window] += weight * (colour.astype(np.float32) - image[window])
