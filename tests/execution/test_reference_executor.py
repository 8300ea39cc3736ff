"""However rows are cut into parts, they come out as from the plain state-by-state loop."""

import pytest
import torch
from small_models import assert_near, images

from mmdiscard.execution import MemoryLimits, ReferenceExecutor
from mmdiscard.search import Rows

IMAGES = 3


@pytest.fixture
def executor(hooked):
    return ReferenceExecutor(hooked.forward, hooked.hooks)


def random_rows(space, count):
    limits = torch.tensor([group.num_indices for group in space.groups])
    states = (torch.rand(count, len(limits)) * limits).long()
    states[0] = 0
    return Rows(torch.arange(count) % IMAGES, states)


@torch.no_grad()
@pytest.mark.parametrize('max_rows', [None, 1, 2, 5, 100])
def test_any_limit_equals_the_plain_loop(executor, max_rows):
    inputs, rows = images(IMAGES), random_rows(executor.hooks.space, 7)
    executor.limits = MemoryLimits(max_rows)
    parts = list(executor.run(inputs, rows))
    assert max(len(part.rows) for part in parts) <= (max_rows or IMAGES)
    assert torch.equal(torch.cat([part.rows.states for part in parts]), rows.states)
    assert torch.equal(torch.cat([part.inputs for part in parts]), inputs[rows.images])
    levels = [torch.cat(level) for level in zip(*(part.features for part in parts), strict=True)]
    for row, (image, state) in enumerate(zip(rows.images, rows.states, strict=True)):
        with executor.hooks.select(state[None]):
            expected = executor.forward(inputs[image : image + 1])
        for level, plain in zip(levels, expected, strict=True):
            assert_near(level[row : row + 1], plain)


@torch.no_grad()
def test_default_rows_of_a_whole_batch_are_bitwise_the_plain_forward(executor):
    inputs = images(IMAGES)
    rows = Rows(torch.arange(IMAGES), executor.hooks.space.default(IMAGES))
    (part,) = executor.run(inputs, rows)
    assert part.inputs is inputs
    for level, plain in zip(part.features, executor.forward(inputs), strict=True):
        assert torch.equal(level, plain)
