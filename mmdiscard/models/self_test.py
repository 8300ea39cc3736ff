"""Self-test: check the assumptions about a model on noise, in a few forwards.

1. With one state, the model's own `predict` gives what the untouched model gives, bit for bit.
2. The logits depend on the images through the output levels of the backbone alone.
3. A displaced state equals the default state on the translated image, in the centre: in the deepest
   level and, where outputs are aligned exactly, behind the head.

That entering the backbone at a group equals running it whole is checked by `find_reentry_points`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils._pytree import tree_flatten

from ..errors import UnsearchableModelError
from ..execution import BackboneOutputs, Levels
from ..search import FixedStates, Rows
from ..subsampling.backbone import deepest
from .adapters import ModelAdapter
from .batch_inference import BatchInference
from .pipeline import Pipeline

# Error of a displaced state over the effect of displacing. Right groups of models with random
# weights reach 0.6, wrong ones are near 1.
PASS_BELOW = 0.5
REFUSE_ABOVE = 0.7
FOLLOWS_BELOW = 0.35  # the same ratio for a shift of the image by whole cells
SWITCH_OFF = 'If that is as it should be, attach with self_test=False'
IN_LEVEL, BEHIND_HEAD = 'in its deepest output', 'behind the head'


class SelfTest:
    """Checks one model while it is being attached; leaves random state, buffers and modes alone.

    Args:
        adapter: of the model, not installed yet.
        image: ``(1, C, H, W)``, blank, of the size to check states at.
        small_size: ``(H, W)`` that is enough to compare predictions of one state.
        sample: an image of noise as the backbone receives it, and the levels of its default state.
        restore: brings back random state and buffers, see `undisturbed`.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        image: Tensor,
        small_size: tuple[int, int],
        sample: tuple[Tensor, Levels],
        restore: Callable[[], None],
    ) -> None:
        self.adapter = adapter
        self._sample = sample
        self._restore = restore
        self.name = type(adapter.model).__name__
        self._noise = self._noise_like(image)
        self._small = self._noise_like(image.new_zeros((*image.shape[:2], *small_size)))
        self._plain: list[Tensor] | None = None
        self._calls = 0

    def observe(self) -> None:
        """Predict with the untouched model.

        Raises:
            UnsearchableModelError: if it overwrites its images.
        """
        for images in (self._small, self._noise):
            before = images.clone()
            with self.adapter.input_watch.recorded() as calls:
                try:
                    self._plain = self._predict(images)
                except Exception as error:  # whatever a model of others raises
                    failed = _first_line(error)
                    continue
            if not same(images, before):
                raise UnsearchableModelError(
                    f'{self.name} overwrites the images that it is given, and every state needs '
                    'them; let it change a copy, such as `inputs = inputs - mean` in the place of '
                    '`inputs.sub_(mean)`'
                )
            self._small, self._calls = images, len(calls)
            return
        print_log(
            f'mmdiscard: {self.name}.predict does not run on noise of {tuple(images.shape)} '
            f'({failed}), so mmdiscard could not check what it assumes of this model; set '
            '`input_size` to a size that it takes',
            'current',
            level=30,
        )

    def check(self, pipeline: Pipeline) -> None:
        """Check the attached model.

        Raises:
            UnsearchableModelError: if an assumption does not hold; says which, and what can be
                done.
        """
        if self._plain is None:
            return
        self._check_one_state(pipeline)
        self._check_states(pipeline)

    def _head(self, levels: Levels, images: Tensor) -> Tensor:
        _seed()  # some heads draw random numbers, as the Hamburger of SegNeXt does
        return self.adapter.head(levels, images, self.adapter.default_context(images))

    def _predict(self, images: Tensor) -> list[Tensor]:
        self._restore()
        _seed()
        samples = self.adapter.model.predict(images, self.adapter.samples(images))
        leaves = tree_flatten([sample.to_dict() for sample in samples])[0]
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    # ------------------------------------------------------------------------------ assumption 1
    def _check_one_state(self, pipeline: Pipeline) -> None:
        plain = replace(pipeline, search=FixedStates(pipeline.space.default(1).tolist()))
        entered = 0
        changed = False

        def predict(images: Tensor, context: Any) -> Tensor:
            nonlocal entered, changed
            entered += 1
            batch = BatchInference(plain, images, context)
            changed |= not same(batch.images, batch.received)
            batch.follow(plain.search.rounds(len(images), plain.space, plain.prices))
            return batch.logits()

        self.adapter.changes_images = True
        with self.adapter.route(predict):
            found = self._predict(self._small)
        self.adapter.changes_images = changed
        if not entered:
            raise UnsearchableModelError(
                f'{self.name}.predict does not call `{self.adapter.entry_name}`, which mmdiscard '
                f'replaces, so states would have no influence; let it call that. {SWITCH_OFF}'
            )
        if self._calls != entered and not self.adapter.whole:
            raise UnsearchableModelError(
                f'{self.name} calls its backbone {self._calls / entered:g} times for one '
                'prediction, as Siamese models do, and states of one call cannot stand for all; '
                'this model cannot be attached to'
            )
        if len(found) != len(self._plain) or not all(map(same, found, self._plain)):
            raise UnsearchableModelError(
                f'with one state, {self.name}.predict does not give what the model gives without '
                'mmdiscard: it remembers earlier images, or something besides the head reads the '
                'features of the backbone or changes its logits before '
                f'`{self.adapter.entry_name}` returns them. Let `{self.adapter.entry_name}` return '
                'the logits of the head alone'
            )

    # -------------------------------------------------------------------------- assumptions 2, 3
    def _check_states(self, pipeline: Pipeline) -> None:
        found = self._translated(pipeline, 1.0)
        if max(found.values()) < PASS_BELOW:
            return
        own = self._own_departure(pipeline)
        where = max(found, key=found.get)
        # Where the model does not follow a shift by whole cells either (borders reach the centre of
        # small maps, attention over the whole map), nothing is known of the states.
        if own[where] > FOLLOWS_BELOW:
            return
        found = self._translated(pipeline, 0.5)
        where = max(found, key=found.get)
        if found[where] < REFUSE_ABOVE:
            return
        names = ', '.join(group.name for group in pipeline.space.groups)
        raise UnsearchableModelError(
            f'displacing the groups {names} does not act like translating the image: {where} '
            f'the difference is {found[where]:.2f} of the effect; below {REFUSE_ABOVE} is right. '
            'Check each group with `mmdiscard.translation_oracle` and leave out those that fail, '
            f'or set `input_size` to the size of your images. {SWITCH_OFF}'
        )

    def _translated(self, pipeline: Pipeline, share: float) -> dict[str, float]:
        """By place, the error of the farthest state over its effect."""
        adapter, space = self.adapter, pipeline.space
        state = torch.tensor([[group.num_indices - 1 for group in space.groups]])
        image = self._image(share)
        default = self._default_levels(image)
        displacement = space.displacement(state)[0].tolist()
        expected = adapter.features(_moved(image, displacement))
        logits = self._head(expected, self._noise)
        with pipeline.executor.hooks.select(state):
            displaced = adapter.features(image)
        # Again, after another image went through the backbone, and with other pixels for the model.
        if not same(logits, self._head(expected, 1 - self._noise)):
            raise UnsearchableModelError(
                f'the logits of {self.name} depend on more than the output levels of its backbone: '
                'a second encoder or a head that reads the image, or features that a forward hook '
                'or an attribute carries past them. States would mix what belongs to different '
                'inputs; let the backbone return these features as output levels'
            )
        level = deepest(default)
        found = {IN_LEVEL: ratio(displaced[level], expected[level], default[level])}
        if pipeline.aggregator.alignment.in_output_space:
            rows = Rows(torch.zeros(1, dtype=torch.long), state)
            _seed()
            # Its levels are brought together, its logits not moved back.
            batch = BatchInference(pipeline, self._noise)
            aligned = batch.outputs(BackboneOutputs(rows, image, displaced)).logits
            found[BEHIND_HEAD] = ratio(aligned, logits, self._head(default, self._noise))
        return found

    def _own_departure(self, pipeline: Pipeline) -> dict[str, float]:
        """The same for a shift of the image by whole cells of the deepest level, without states."""
        adapter = self.adapter
        cell = pipeline.geometry.coarsest_stride
        image = self._image(1.0)
        levels = self._default_levels(image), adapter.features(_moved(image, cell))
        level = deepest(levels[0])
        departure = {IN_LEVEL: _shifted(levels[0][level], levels[1][level], image, cell)}
        if pipeline.aggregator.alignment.in_output_space:
            logits = [self._head(found, self._noise) for found in levels]
            departure[BEHIND_HEAD] = _shifted(*logits, image, cell)
        return departure

    def _image(self, share: float) -> Tensor:
        """Noise in the size in which the backbone receives it."""
        context = self.adapter.default_context(self._noise)
        received = self.adapter.backbone_input(self._noise, context)
        return self._noise_like(received, share)

    def _default_levels(self, image: Tensor) -> Levels:
        """Output levels of the default state; discovery computed those of its image already."""
        traced, levels = self._sample
        if image is not traced:
            return self.adapter.features(image)
        return self.adapter.backbone_patch.channels_first(levels)

    def _noise_like(self, image: Tensor, share: float = 1.0) -> Tensor:
        """`noise` in the shape of an image; what discovery drew is the same, and at hand."""
        traced = self._sample[0]
        if share == 1.0 and image.shape == traced.shape and image.dtype == traced.dtype:
            return traced
        return noise(image.shape, share).to(image)


def noise(shape: tuple[int, ...], share: float) -> Tensor:
    """Normal noise ``(N, C, H, W)`` in the middle ``share`` of both axes, zeros elsewhere."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for axis in (2, 3):
        place = (torch.arange(shape[axis]) + 0.5) / shape[axis] - 0.5
        inside = (place.abs() <= share / 2).to(values)
        values *= inside.view(-1, 1) if axis == 2 else inside
    return values


def _moved(image: Tensor, displacement: Sequence[int]) -> Tensor:
    """An image translated by ``(dy, dx)`` pixels to the left and up; what leaves it comes in."""
    return image.roll((-displacement[0], -displacement[1]), (2, 3))


def _seed() -> None:
    """`torch.manual_seed` for CPU and CUDA; that takes long where there are no such devices."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


def same(a: Tensor, b: Tensor) -> bool:
    """Bitwise on a CPU, with NaN equal to NaN; up to rounding where kernels may differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_cuda and a.is_floating_point():
        return torch.allclose(a, b, 1e-3, 1e-4, equal_nan=True)
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def ratio(found: Tensor, expected: Tensor, default: Tensor) -> float:
    """Mean difference from what was expected over that from the default state, in the centre.

    Args:
        found: maps ``(N, C, h, w)`` of a state.
        expected: the same shape, as they should be.
        default: the same shape, of the default state.
    """
    error, effect = (_difference(found, other) for other in (expected, default))
    scale = float(default.float().abs().mean())
    return error / effect if effect > 1e-6 * scale else 0.0


def _shifted(maps: Tensor, moved: Tensor, image: Tensor, pixels: Sequence[int]) -> float:
    """`ratio` of ``moved`` to ``maps``, which are to differ by a shift of ``pixels``."""
    if maps.ndim != 4:
        return float('inf')
    sizes = zip(pixels, maps.shape[2:], image.shape[2:], strict=True)
    dy, dx = (max(1, round(shift * cells / size)) for shift, cells, size in sizes)
    h, w = maps.shape[2] - dy, maps.shape[3] - dx
    if min(h, w) < 1:
        return float('inf')
    return ratio(moved[..., :h, :w], maps[..., dy:, dx:], maps[..., :h, :w])


def _difference(a: Tensor, b: Tensor) -> float:
    difference = (a.float() - b.float()).abs()
    if difference.ndim == 4:
        h, w = difference.shape[2:]
        difference = difference[..., h // 3 : h - h // 3, w // 3 : w - w // 3]
    return float(difference.mean())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
