"""The cache keeps what saves the most per byte."""

import torch

from mmdiscard.execution.prefix_cache import CachedPrefix, PrefixCache


def slab(spots, floats, saves):
    inputs = {'layer': torch.zeros(len(spots), floats // len(spots))}
    return CachedPrefix(inputs, {}, saves, set(spots))


def test_what_saves_least_per_byte_goes_first():
    cache = PrefixCache(max_bytes=4 * 250)
    shallow, deep, deeper = (0, 0, ()), (0, 1, (0,)), (0, 2, (0, 0))
    cache.add(slab([shallow], 100, saves=0.1), [shallow])
    cache.add(slab([deep], 100, saves=0.5), [deep])
    assert shallow in cache and deep in cache
    cache.add(slab([deeper], 100, saves=0.8), [deeper])
    assert shallow not in cache
    assert deep in cache and deeper in cache


def test_nothing_is_kept_without_room():
    cache = PrefixCache(max_bytes=0)
    cache.add(slab([(0, 0, ())], 10, saves=1), [(0, 0, ())])
    assert (0, 0, ()) not in cache


def test_a_slab_goes_with_its_last_row():
    spots = [(0, 0, ()), (1, 0, ())]
    cache = PrefixCache(max_bytes=1000)
    kept = slab(spots, 10, saves=1)
    cache.add(kept, spots)
    assert cache[spots[1]] == (kept, 1)
    cache.drop(spots[0])
    assert cache[spots[1]] == (kept, 1)
    cache.drop(spots[1])
    assert cache._slabs == []
