"""Summary of the search, logged at the end of a test."""

import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean

from ..execution import CostModel
from ..subsampling import SubsamplingGroup

SHOWN = 5


def describe(
    groups: Sequence[SubsamplingGroup],
    records: Sequence[dict],
    cost_model: CostModel,
    divisor: tuple[int, int],
) -> str:
    """Text of the summary: searched groups, states per image, cost, and the best states.

    Further lines say where no state was used, so that the metrics are those of the plain model, and
    how to pad images that the stride does not divide.

    Args:
        groups: the searched groups.
        records: per image its forward passes, each with states, scores, cost, bound and size, and
            windows where states were computed in these alone.
        cost_model: of the model.
        divisor: what the sides of an image should be multiples of, in pixels.
    """
    passes = [entry for record in records for entry in record['passes']]
    lines = ['mmdiscard summary', f'  groups searched: {"; ".join(map(_group, groups))}']
    lines += _unused(records, passes)
    if passes:
        states = fmean(len(entry['states']) for entry in passes)
        cost, bound = (fmean(entry[key] for entry in passes) for key in ('cost', 'bound'))
        lines += [
            f'  images: {len(records)}, forward passes without mmdiscard: {len(passes)}',
            f'  states per image: {states:.2f} on average{_distribution(passes)}',
            f'  cost: {cost:.2f} plain forwards in multiply-accumulates (at least {bound:.2f} if '
            'every prefix of the states is computed once)',
            *_windows(passes),
            f'  {_segments(groups, cost_model)}',
            f'  {_winners(passes)}',
            *_uneven(passes, divisor),
        ]
    return '\n'.join(lines)


def _unused(records: Sequence[dict], passes: Sequence[dict]) -> Iterator[str]:
    """Number of images for which only the default state was used."""
    without = sum(not record['passes'] for record in records)
    if without:
        which = 'any image' if without == len(records) else f'{without} of {len(records)} images'
        yield (
            f'  no state was used for {which}: no prediction passed the searched model, so figures '
            'are those of the plain model'
        )
    elif passes and not any(
        any(map(any, entry['states'])) or entry.get('windows') for entry in passes
    ):
        yield (
            '  no state was used but the default one: figures are those of the plain model, as the '
            'search gives no other state within its budget and gate'
        )


def _distribution(passes: Sequence[dict]) -> str:
    """Distribution of the number of states per forward pass, where it varies."""
    counts = [len(entry['states']) for entry in passes]
    if len(set(counts)) == 1:
        return ''
    bins = Counter(_bin(count) for count in counts)
    shares = [f'{_range(*b)}: {number / len(counts):.1%}' for b, number in sorted(bins.items())]
    return f' ({", ".join(shares)})'


def _bin(count: int) -> tuple[int, int]:
    """1 by itself, then 2-4, 5-8, 9-16 and on in powers of two."""
    if count <= 4:
        return (1, 1) if count == 1 else (2, 4)
    last = 1 << (count - 1).bit_length()
    return last // 2 + 1, last


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f'{first}-{last}'


def _uneven(passes: Sequence[dict], divisor: tuple[int, int]) -> Iterator[str]:
    uneven = sum(any(map(operator.mod, entry['size'], divisor)) for entry in passes)
    if uneven:
        yield (
            f'  sizes: {uneven / len(passes):.1%} of the images have a side that the stride of '
            f'{max(divisor)} does not divide, so the model stretches its maps; to pad, set '
            f'model.data_preprocessor.test_cfg.size_divisor={max(divisor)}'
        )


def _windows(passes: Sequence[dict]) -> Iterator[str]:
    """Share of the image area that was computed in more than the default state."""
    looked = [entry for entry in passes if 'windows' in entry]
    if looked:
        count = fmean(len(entry['windows']) for entry in looked)
        area = fmean(
            sum(height * width for _, _, height, width in entry['windows'])
            / math.prod(entry['size'])
            for entry in looked
        )
        yield f'  second look: {count:.2f} windows per image on average, {area:.1%} of its area'


def _segments(groups: Sequence[SubsamplingGroup], cost_model: CostModel) -> str:
    """Share of a plain forward that each segment between groups costs, at the traced size."""
    parts = ['before', *(f'from {group.name}' for group in groups), 'head']
    shares = zip(parts, cost_model.segments, strict=True)
    spent = ', '.join(f'{part} {macs / max(cost_model.macs, 1):.1%}' for part, macs in shares)
    return f'a plain forward is {cost_model.macs / 1e9:.3g} G multiply-accumulates: {spent}'


def _group(group: SubsamplingGroup) -> str:
    return (
        f'{group.name} (factor {group.factor[0]}x{group.factor[1]}, input stride {group.stride[0]})'
    )


def _winners(passes: Sequence[dict]) -> str:
    """The states that scored best, and for how many images."""
    scored = [entry for entry in passes if entry['scores']]
    if not scored:
        return 'states are the same for every image'
    best = Counter(
        tuple(min(zip(entry['scores'], entry['states'], strict=True))[1]) for entry in scored
    )
    shares = [f'{state} {count / len(scored):.1%}' for state, count in best.most_common(SHOWN)]
    more = f', and {len(best) - SHOWN} more' if len(best) > SHOWN else ''
    return f'best state of an image: {", ".join(shares)}{more}'
