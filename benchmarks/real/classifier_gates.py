"""Second looks only at the images that a classifier is least sure of, from recorded logits.

The threshold comes from the half of the images that chooses, as that of a gate does: there a given
share of the images is less sure. Figures are of the other half.
"""

from collections.abc import Sequence

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


def rows(logits: Logits) -> list[dict]:
    """A row per second look, gate and share."""
    plain, report = logits.hits(PLAIN), ~logits.chooses
    found = []
    for look in LOOKS:
        after = logits.hits(look)
        if after is None:
            continue
        extra = logits.cost(PROCEDURES[look]) - 1
        everywhere = paired_interval(plain[report].tolist(), after[report].tolist())
        for gate in GATES:
            unsure = unsureness(logits.mean((PLAIN,)), gate)
            for share in SHARES:
                threshold = np.quantile(unsure[logits.chooses], 1 - share)
                looked = unsure > threshold
                gated = np.where(looked, after, plain)
                gain = paired_interval(plain[report].tolist(), gated[report].tolist())
                found.append(
                    dict(
                        look=look,
                        gate=gate,
                        share=share,
                        looked=float(looked[report].mean()),
                        cost=float(1 + extra * looked[report].mean()),
                        gain=(gain.mean, gain.half_width),
                        whole=(everywhere.mean, everywhere.half_width),
                        whole_cost=1 + extra,
                        chosen_on=float((gated - plain)[logits.chooses].mean()),
                    )
                )
    return found


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
