"""The hook pair against the golden data and against brute force."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import Tensor, nn
from torch.nn import functional as F

from mmdiscard.subsampling import StateHooks, SubsamplingGroup
from mmdiscard.subsampling.layers import pair, subsampling_factor, unsupported_because

DATA = Path(__file__).parents[1] / 'data'
CASES = json.loads((DATA / 'layers.json').read_text())
GOLDEN = np.load(DATA / 'layers.npz')
MARGIN = 24


def at_states(layer: nn.Module, inputs: Tensor, indices: list[int]) -> Tensor:
    """What the hooked layer gives when row ``m`` takes selection index ``indices[m]``."""
    backbone = nn.Sequential(layer)
    group = SubsamplingGroup('0', ('0',), subsampling_factor(layer), (1, 1))
    hooks = StateHooks(backbone, [group])
    with torch.no_grad(), hooks.select(torch.tensor(indices).view(-1, 1)):
        output = backbone(inputs)
    hooks.remove()
    return output


# ------------------------------------------------------------------------------------ golden data
def golden_layer(case: dict) -> nn.Module:
    kernel, stride, padding = case['kernel'], case['stride'], case['padding']
    if case['kind'] == 'maxpool':
        return nn.MaxPool2d(kernel, stride, padding)
    if case['kind'] == 'avgpool':
        return nn.AvgPool2d(kernel, stride, padding)
    weight = torch.from_numpy(GOLDEN[f'{case["key"]}.weight'])
    bias = f'{case["key"]}.bias'
    layer = nn.Conv2d(
        weight.shape[1] * case['groups'],
        len(weight),
        kernel,
        stride,
        padding,
        case['dilation'],
        case['groups'],
        bias in GOLDEN,
    )
    layer.weight.data = weight
    if bias in GOLDEN:
        layer.bias.data = torch.from_numpy(GOLDEN[bias])
    return layer


@pytest.mark.parametrize('case', CASES, ids=lambda case: case['key'])
def test_golden_layers(case):
    inputs = torch.from_numpy(GOLDEN[f'{case["key"]}.x'])
    for index in range(case['R'] ** 2):
        expected = torch.from_numpy(GOLDEN[f'{case["key"]}.out{index}'])
        found = at_states(golden_layer(case), inputs, [index] * len(inputs))
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


# ------------------------------------------------------------------------------------ brute force
def stride_one(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Every activation of ``layer`` around ``inputs``, and the padding of its own grid.

    Entry ``(i, j)`` is the window that starts at cell ``(i - MARGIN, j - MARGIN)`` of the input.
    """
    kernel, padding = pair(layer.kernel_size), layer.padding
    dilation = getattr(layer, 'dilation', 1)
    around = F.pad(inputs, [MARGIN] * 4)
    if isinstance(layer, nn.Conv2d):
        if isinstance(layer, Conv2dAdaptivePadding):
            padding = same_padding(layer, inputs.shape[2:])
        return F.conv2d(around, layer.weight, layer.bias, 1, 0, dilation, layer.groups), pair(
            padding
        )
    if isinstance(layer, nn.Unfold):
        size = [
            n + 2 * MARGIN - d * (k - 1)
            for n, k, d in zip(inputs.shape[2:], kernel, pair(dilation), strict=True)
        ]
        return F.unfold(around, kernel, dilation).unflatten(-1, size), pair(padding)
    if isinstance(layer, nn.MaxPool2d):
        around = F.pad(inputs, [MARGIN] * 4, value=-math.inf)
        every = F.max_pool2d(around, kernel, 1, 0, dilation)
        return every.masked_fill(every == -math.inf, 0), pair(padding)
    margin = pair(padding) if layer.count_include_pad else (0, 0)
    counted = F.pad(
        torch.ones_like(inputs), (margin[1], margin[1], margin[0], margin[0]), value=1.0
    )
    rest = (MARGIN - margin[1], MARGIN - margin[1], MARGIN - margin[0], MARGIN - margin[0])
    ones = F.pad(counted, rest)
    total = F.avg_pool2d(around.double(), kernel, 1, divisor_override=1)
    valid = F.avg_pool2d(ones.double(), kernel, 1, divisor_override=1)
    if layer.divisor_override:
        valid = torch.full_like(valid, layer.divisor_override)
    return (total / valid.clamp(min=1)).float(), pair(padding)


def same_padding(layer: nn.Conv2d, size: torch.Size) -> tuple[int, ...]:
    """TensorFlow's 'same': the smaller half of what is missing goes before."""
    geometry = zip(size, layer.kernel_size, layer.stride, layer.dilation, strict=True)
    return tuple(
        max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0) // 2 for n, k, s, d in geometry
    )


def brute_force(layer: nn.Module, inputs: Tensor, index: int, shape: tuple[int, ...]) -> Tensor:
    """The activations that ``index`` selects, ``shape`` rows and columns of them."""
    every, padding = stride_one(layer, inputs)
    (ry, rx), (py, px) = subsampling_factor(layer), padding
    y, x = MARGIN - py + index // rx, MARGIN - px + index % rx
    return every[..., y::ry, x::rx][..., : shape[0], : shape[1]]


def grid_of(layer: nn.Module, inputs: Tensor) -> tuple[int, ...]:
    """Rows and columns that the untouched layer puts out."""
    if not isinstance(layer, nn.Unfold):
        return tuple(layer(inputs).shape[2:])
    geometry = zip(
        inputs.shape[2:],
        *(pair(getattr(layer, n)) for n in ('kernel_size', 'padding', 'dilation', 'stride')),
        strict=True,
    )
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, d, s in geometry)


@st.composite
def cases(draw):
    """A layer, an input, and one selection index for every row of it."""
    kind = draw(st.sampled_from(['conv', 'same', 'max', 'avg', 'unfold']))
    factor = draw(st.sampled_from([(2, 2), (3, 3), (4, 4), (2, 1), (1, 2), (3, 2)]))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(2))
    dilation = draw(st.sampled_from([1, 1, 2])) if kind != 'avg' else 1
    flag = draw(st.booleans())
    if kind in ('max', 'avg'):  # torch allows padding up to half a kernel
        padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    else:
        padding = tuple(draw(st.integers(0, 3)) for _ in kernel)
    groups = draw(st.sampled_from([1, 2, 4]))
    layer = {
        'conv': lambda: nn.Conv2d(4, 8, kernel, factor, padding, dilation, groups, flag),
        'same': lambda: Conv2dAdaptivePadding(4, 8, kernel, factor, 0, dilation, groups, flag),
        'max': lambda: nn.MaxPool2d(kernel, factor, padding, dilation, ceil_mode=flag),
        'avg': lambda: nn.AvgPool2d(
            kernel,
            factor,
            padding,
            flag,
            draw(st.booleans()),
            draw(st.sampled_from([None, None, 3])),
        ),
        'unfold': lambda: nn.Unfold(kernel, dilation, padding, factor),
    }[kind]()
    size = [draw(st.integers(1, 13)) for _ in kernel]
    for n, k, p in zip(size, kernel, padding, strict=True):
        assume(n + 2 * p >= dilation * (k - 1) + 1)
    seed = draw(st.integers(0, 2**16))
    inputs = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(seed))
    indices = st.lists(st.integers(0, factor[0] * factor[1] - 1), min_size=3, max_size=3)
    return layer, inputs, draw(indices)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_mixed_indices_equal_brute_force_row_by_row(case):
    layer, inputs, indices = case
    with torch.no_grad():
        assume(layer(inputs).isfinite().all())  # a dilated window may see nothing but padding
        shape = grid_of(layer, inputs)
        found = at_states(layer, inputs, indices)
        if isinstance(layer, nn.Unfold):
            found = found.unflatten(-1, shape)
        for row, index in enumerate(indices):
            expected = brute_force(layer, inputs[row : row + 1], index, shape)
            assert expected.shape[2:] == shape
            torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_default_index_is_bitwise_the_untouched_layer(case):
    layer, inputs, _ = case
    with torch.no_grad():
        assert torch.equal(at_states(layer, inputs, [0, 0, 0]), layer(inputs))


# ------------------------------------------------------------------------------------- layer kinds
@pytest.mark.parametrize(
    'layer, factor',
    [
        (nn.Conv2d(3, 3, 3, stride=2), (2, 2)),
        (nn.Conv2d(3, 3, 3), (1, 1)),
        (Conv2dAdaptivePadding(3, 3, 3, stride=(2, 1)), (2, 1)),
        (nn.MaxPool2d(3), (3, 3)),
        (nn.AvgPool2d(2, (1, 2)), (1, 2)),
        (nn.Unfold(2, stride=4), (4, 4)),
        (nn.ConvTranspose2d(3, 3, 2, stride=2), (1, 1)),
        (nn.BatchNorm2d(3), (1, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_factor_of_layers(layer, factor):
    assert subsampling_factor(layer) == factor


@pytest.mark.parametrize(
    'layer, words',
    [
        (nn.Conv2d(3, 3, 3, stride=2, padding=1, padding_mode='reflect'), 'reflect'),
        (nn.MaxPool2d(2, return_indices=True), 'returns indices'),
        (nn.Conv2d(3, 3, 3, stride=2, padding=1), '^$'),
        (nn.AvgPool2d(2), '^$'),
    ],
)
def test_layers_that_do_not_translate_exactly_are_named(layer, words):
    assert re.search(words, unsupported_because(layer))
