"""The attention module against outputs of the official implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmdiscard.learned import StateAttention
from mmdiscard.learned import attention as attention_module

GOLDEN = Path(__file__).parents[1] / 'data' / 'attention.npz'


@pytest.fixture(scope='module')
def golden():
    with np.load(GOLDEN) as data:
        return {name: torch.from_numpy(data[name]) for name in data.files}


@pytest.fixture
def module(golden):
    module = StateAttention(16, 32)
    names = {
        'query.weight': 'w_q.weight',
        'query.bias': 'w_q.bias',
        'key.weight': 'w_k.weight',
        'key.bias': 'w_k.bias',
        'position': 'pe.pe',
        'scale': 'w_o',
    }
    module.load_state_dict({own: golden[f'param.{theirs}'] for own, theirs in names.items()})
    return module


@pytest.fixture
def positions(golden):
    return golden['offsets_xy'].flip(-1)  # theirs are (dx, dy)


def test_merged_output_and_score_are_those_of_the_official_code(golden, module, positions):
    merged = module(golden['feats'], positions)
    torch.testing.assert_close(merged, golden['aggregated'], atol=1e-5, rtol=0)
    received = module.received(golden['feats'], positions)
    torch.testing.assert_close(received, golden['score'], atol=1e-5, rtol=0)


def test_every_state_is_that_of_the_official_code(golden, module, positions):
    flat, embedded = golden['feats'].flatten(3), module.embed(positions)
    attention = attention_module._attention(*module._projections(flat, embedded), None)
    attended = torch.einsum('nijl,njcl->nicl', attention, flat + embedded.unsqueeze(3))
    out = (flat + module.scale[:, None] * attended).view_as(golden['feats'])
    torch.testing.assert_close(out, golden['out'], atol=1e-5, rtol=0)


def test_untrained_it_is_the_average(golden, positions):
    merged = StateAttention(16, 32)(golden['feats'], positions)
    torch.testing.assert_close(merged, golden['feats'].mean(1))


def test_chunks_change_nothing_nor_does_the_gradient(golden, module, positions, monkeypatch):
    whole = module(golden['feats'], positions)
    received = module.received(golden['feats'], positions)
    gradients = torch.autograd.grad(whole.square().sum(), list(module.parameters()))
    monkeypatch.setattr(attention_module, 'MAX_ENTRIES', 2 * 6 * 6 * 5)  # five of twelve locations
    parts = module(golden['feats'], positions)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(module.received(golden['feats'], positions), received)
    again = torch.autograd.grad(parts.square().sum(), list(module.parameters()))
    torch.testing.assert_close(again, gradients)


def test_no_chunk_is_larger_than_the_limit(golden, module, positions, monkeypatch):
    sizes = []
    attention = attention_module._attention

    def watched(*args):
        sizes.append(attention(*args).numel())
        return attention(*args)

    monkeypatch.setattr(attention_module, '_attention', watched)
    monkeypatch.setattr(attention_module, 'MAX_ENTRIES', 200)
    module(golden['feats'], positions)
    assert len(sizes) == 6 and max(sizes) <= 200


def test_absent_states_count_for_nothing(golden, module, positions):
    present = torch.tensor([[1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    features = golden['feats'].clone()
    features[~present] = 1e3
    merged = module(features, positions, present)
    alone = golden['feats'][:1, present[0]], positions[:1, present[0]]
    torch.testing.assert_close(merged[:1], module(*alone))
    received = module.received(features, positions, present)
    torch.testing.assert_close(received[:1, present[0]], module.received(*alone))
    torch.testing.assert_close(merged[1], golden['aggregated'][1], atol=1e-5, rtol=0)


def test_order_of_states_does_not_matter(golden, module, positions):
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    shuffled = golden['feats'][:, order], positions[:, order]
    merged, received = module(*shuffled), module.received(*shuffled)
    torch.testing.assert_close(merged, golden['aggregated'], atol=1e-5, rtol=0)
    torch.testing.assert_close(received, golden['score'][:, order], atol=1e-5, rtol=0)


def test_vectors_are_maps_of_one_location(golden, module, positions):
    vectors = golden['feats'][..., 0, 0]
    merged = module(vectors, positions)
    torch.testing.assert_close(merged, golden['aggregated'][..., 0, 0], atol=1e-5, rtol=0)


def test_odd_numbers_of_channels_work():
    merged = StateAttention(5, 4)(torch.randn(2, 3, 5, 2, 2), torch.zeros(2, 3, 2).long())
    assert merged.shape == (2, 5, 2, 2)
