"""Peak memory: counted to the byte where it can be worked out by hand."""

import gc

import pytest
import torch
from torch import nn

from benchmarks.speed.peak_memory import peak_memory

KIB = torch.ones(256)  # 1024 bytes
SCALAR = 64  # at most, of numbers that PyTorch makes tensors of


def test_chain_holds_two_at_a_time():
    def call():
        x = KIB * 2  # 1 KiB
        for _ in range(5):
            x = x + 1  # the old and the new one
        return x

    assert peak_memory(call) == pytest.approx(2 * 1024, abs=SCALAR)


def test_a_list_grows_and_a_sum_does_not():
    assert peak_memory(lambda: [KIB * factor for factor in range(7)]) == pytest.approx(
        7 * 1024, abs=SCALAR
    )

    def running_sum():
        total = KIB * 0
        for factor in range(7):
            total += KIB * factor

    assert peak_memory(running_sum) == pytest.approx(2 * 1024, abs=SCALAR)


def test_a_network_by_hand():
    """Two linear layers on 8 rows of float32: 16 -> 64 -> 4, weights and images left out."""
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    images = torch.randn(8, 16)
    hidden, out = 8 * 64 * 4, 8 * 4 * 4
    with torch.no_grad():
        # The hidden layer before and after ReLU; then that and the output.
        assert peak_memory(lambda: network(images)) == max(2 * hidden, hidden + out)


def test_views_weights_and_inputs_are_free():
    weight, grid = torch.ones(64, 64), torch.ones(64, 64)

    def call():
        views = weight.t()[:32].unflatten(1, (8, 8)), grid.view(-1)
        grid.add_(1)
        return views

    assert peak_memory(call) <= SCALAR


def test_views_hold_what_they_look_at():
    def call():
        part = (KIB * 2)[:1]  # the whole KiB stays
        return part, KIB * 3

    assert peak_memory(call) == pytest.approx(2 * 1024, abs=SCALAR)


def test_dtype_and_expansion():
    assert peak_memory(lambda: KIB.double()) == pytest.approx(2 * 1024, abs=SCALAR)
    assert peak_memory(lambda: KIB.half()) == 512
    assert peak_memory(lambda: (KIB[:1] * 2).expand(1000)) <= SCALAR


def test_what_is_given_back_is_not_counted_again():
    def call():
        for factor in range(7):
            held = KIB * factor
            del held

    assert peak_memory(call) == pytest.approx(1024, abs=SCALAR)


def test_the_same_every_time():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = {peak_memory(lambda: network(images)) for _ in range(3)}
    assert len(found) == 1
    assert found.pop() >= 2 * 8 * 16 * 16 * 4


def test_collector_is_left_as_it_was():
    gc.disable()
    try:
        peak_memory(lambda: None)
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(ZeroDivisionError):
        peak_memory(lambda: 1 / 0)
    assert gc.isenabled()
