"""docs/backbones.md, made from the results of the audit."""

from collections.abc import Sequence

from benchmarks.backbones.results import (
    ABSENT,
    NOTHING,
    PARTLY,
    REFUSED,
    RESULTS,
    SEARCHED,
    BackboneRecord,
    GroupRecord,
)

MEANINGS = {
    SEARCHED: 'every group that is offered obeys the translation law, and a search ran',
    PARTLY: 'a search ran on the groups that obey it; those that do not are named',
    NOTHING: 'no layer subsamples',
    REFUSED: 'layers subsample, but none can be searched, for the reason given',
    ABSENT: 'it is no backbone, or could not be built or run here',
}
INTRODUCTION = """# Backbones

Which backbones can be searched: all of MMPretrain and MMSegmentation, and families of timm. The
audit builds the smallest variant of each with random weights, finds its subsampling groups, checks
every group with the [translation oracle](method.md), and searches four states through
`mmdiscard.attach`. `make audit` repeats it and fails if a backbone that passed no longer does.
This page is made from [results.json](../benchmarks/backbones/results.json);
`python -m benchmarks.backbones.run` audits everything and writes both, `--only NAME...` renews the
rows of some.

A group is written stride·factor (error/effect): its input stride in image pixels, its subsampling
factor, and how far a state is from the translated image: 0 is exact, 1 no agreement, below 0.5
passes. The error comes from borders, windows and position embeddings. "Four states" is their cost
in plain forwards, without the first and the last group if there are more than two.

Weights are random, but adjusted to behave like trained ones: kernels are damped off their centre
and batch statistics are uneven. A group that fails is tried with the class's own initialisation
too, and the better result counts. Some settings, such as windows as large as the map (Swin V2,
MixMIM) and feature-map outputs of plain transformers, are chosen in
`benchmarks/backbones/audited.py`. With other windows or weights more groups may fail, so check
your own model with `mmdiscard.translation_oracle`. Models of timm are audited whole, through
`TimmClassifier`.

Remarks: *not on the trunk* is a layer of a side branch, such as spatial-reduction attention, or
of one of several branches that join before the deepest output. *Joins ... with maps that come
past it*: a skip connection of an encoder-decoder, or a fusion of branches, combines maps of two
resolutions. A deep group would displace only the coarse ones, so no translation could align the
result, and the group is left out. *Reached inside a forward*: a function or a slice subsamples,
not a module; the groups around it are searched.
"""


def page(records: Sequence[BackboneRecord]) -> str:
    """The whole page, rows in the order of ``records``."""
    rows = '\n'.join(map(row, records))
    return (
        f'{INTRODUCTION}\n{summary(records)}\n'
        '| package | backbone | result | groups: stride·factor (error/effect) | four states '
        f'| remark |\n|---|---|---|---|---:|---|\n{rows}\n'
    )


def summary(records: Sequence[BackboneRecord]) -> str:
    """How many backbones have each result, and the share of those that subsample."""
    counts = {result: sum(r.result == result for r in records) for result in RESULTS}
    good = counts[SEARCHED]
    subsample = good + counts[PARTLY] + counts[REFUSED]
    listed = ''.join(f'| {r} | {counts[r]} | {MEANINGS[r]} |\n' for r in RESULTS)
    share = f'{good} of {subsample} ({100 * good / max(subsample, 1):.0f} %)'
    return (
        f'| result | backbones | meaning |\n|---|---:|---|\n{listed}\n'
        f'Of those that subsample, {share} are searched with every group obeying the law.\n'
    )


def row(record: BackboneRecord) -> str:
    """A line of the table."""
    groups = ', '.join(map(_group, record.groups))
    cost = '' if record.cost is None else f'{record.cost:.2f}'
    remark = record.remark.replace('|', '/')
    return f'| {record.package} | {record.name} | {record.result} | {groups} | {cost} | {remark} |'


def _group(group: GroupRecord) -> str:
    failed = '' if group.passed else ' **fails**'
    return f'{_axes(group.stride)}·{_axes(group.factor)} ({group.ratio:.2f}{failed})'


def _axes(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f'{pair[0]}x{pair[1]}'
