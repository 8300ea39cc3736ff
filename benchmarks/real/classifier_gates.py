"""Second looks only at the images that a classifier is least sure of, from recorded logits.

The threshold comes from the half of the images that chooses, as that of a gate does: there a given
share of the images is less sure. Figures are of the other half.
"""

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from benchmarks.common.statistics import Interval, paired_interval
from benchmarks.common.tables import markdown_table

from .classifier_report import PLAIN, PROCEDURES, Logits, log_softmax

SHARES = (0.1, 0.2, 0.4)
LOOKS = ('2 states, deepest group', '2 states, second deepest', '3 states, both', 'flip')
LOOKS += ('flip, 2 states each, second',)
GATES = ('entropy', 'margin')
INTRODUCTION = [
    'Only for the least sure images, threshold from one half of the images, figures of the other:',
    'cost in plain forwards, gain in points of top-1 with its 95 % interval.',
]


def unsureness(logits: np.ndarray, gate: str) -> np.ndarray:
    """What a gate compares with its threshold, higher is less sure: ``(N, K)`` -> ``(N,)``."""
    log_p = log_softmax(logits)
    if gate == 'entropy':
        return -(np.exp(log_p) * log_p).sum(1)
    top = np.sort(np.exp(log_p), axis=1)[:, -2:]
    return top[:, 0] - top[:, 1]


def rows(models: Sequence[Logits]) -> list[dict]:
    """A row per second look, gate and share.

    Args:
        models: logits for the same images; of several models, every image counts with its mean
            over models, and each model has its own threshold.
    """
    report = ~models[0].chooses
    plain = _mean(one.hits(PLAIN) for one in models)

    def gain(hits: np.ndarray) -> tuple[float, float]:
        found = paired_interval(plain[report].tolist(), hits[report].tolist())
        return found.mean, found.half_width

    found = []
    for look in LOOKS:
        if any(one.hits(look) is None for one in models):
            continue
        extra = float(np.mean([one.cost(PROCEDURES[look]) for one in models])) - 1
        whole = gain(_mean(one.hits(look) for one in models))
        for gate, share in product(GATES, SHARES):
            unsure = [_least_sure(one, gate, share) for one in models]
            hits = _mean(
                np.where(where, one.hits(look), one.hits(PLAIN))
                for one, where in zip(models, unsure, strict=True)
            )
            looked = _mean(unsure)
            found.append(
                dict(
                    look=look,
                    gate=gate,
                    share=share,
                    looked=float(looked[report].mean()),
                    cost=float(1 + extra * looked[report].mean()),
                    gain=gain(hits),
                    whole=whole,
                    whole_cost=1 + extra,
                    chosen_on=float((hits - plain)[~report].mean()),
                )
            )
    return found


def _mean(values: Iterable[np.ndarray]) -> np.ndarray:
    return np.mean(list(values), axis=0)


def _least_sure(logits: Logits, gate: str, share: float) -> np.ndarray:
    """Whether an image is looked at again: ``(N,)`` bool, so many of those that choose."""
    unsure = unsureness(logits.mean((PLAIN,)), gate)
    return unsure > np.quantile(unsure[logits.chooses], 1 - share)


def table(rows: Sequence[dict]) -> list[str]:
    """Markdown: a row per second look and gate."""
    body = []
    for look, gate in dict.fromkeys((row['look'], row['gate']) for row in rows):
        own = [row for row in rows if (row['look'], row['gate']) == (look, gate)]
        cells = [f'{Interval(*row["gain"])} at {row["cost"]:.2f}' for row in own]
        whole = f'{Interval(*own[0]["whole"])} at {own[0]["whole_cost"]:.2f}'
        body.append([look, gate, *cells, whole])
    header = ['second look', 'gate', *(f'{share:.0%} of the images' for share in SHARES), 'all']
    return markdown_table(header, body, text_columns=2)
