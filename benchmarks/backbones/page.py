"""The page that says which backbones can be searched: written, and read again to compare."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

SEARCHED, PARTLY, NOTHING, REFUSED, ABSENT = RESULTS = (
    'searched',
    'partly',
    'nothing to search',
    'not supported',
    'not built',
)
MEANINGS = {
    SEARCHED: 'every group that is offered obeys the translation law, and a search ran',
    PARTLY: 'a search ran on the groups that obey it; those that do not are named',
    NOTHING: 'no layer subsamples',
    REFUSED: 'layers subsample, but none can be searched, for the reason given',
    ABSENT: 'it is no backbone, or could not be built or run here',
}


@dataclass(frozen=True)
class GroupRecord:
    """One group of one backbone: where it is, what it does, and what the oracle says."""

    name: str
    stride: tuple[int, int]
    factor: tuple[int, int]
    ratio: float
    passed: bool

    def __str__(self) -> str:
        failed = '' if self.passed else ' **fails**'
        return f'{_axes(self.stride)}·{_axes(self.factor)} ({self.ratio:.2f}{failed})'


@dataclass(frozen=True)
class BackboneRecord:
    """What the audit found of one backbone.

    Attributes:
        package: whose registry it is in.
        name: under which it is registered, or the name of the timm model.
        result: one of `RESULTS`.
        groups: all groups that discovery offers.
        cost: of four states, in units of one plain forward; None if no search ran.
        remark: why something is not searched, in one line.
    """

    package: str
    name: str
    result: str
    groups: tuple[GroupRecord, ...] = ()
    cost: float | None = None
    remark: str = ''

    def row(self) -> str:
        """A line of the table."""
        groups = ', '.join(map(str, self.groups))
        cost = '' if self.cost is None else f'{self.cost:.2f}'
        remark = self.remark.replace('|', '/')
        return f'| {self.package} | {self.name} | {self.result} | {groups} | {cost} | {remark} |'


def summary(records: Sequence['BackboneRecord | WrittenRow']) -> str:
    """How many there are of each result, and the share of those that subsample."""
    counts = {result: sum(r.result == result for r in records) for result in RESULTS}
    good = counts[SEARCHED]
    subsample = good + counts[PARTLY] + counts[REFUSED]
    listed = ''.join(f'| {r} | {counts[r]} | {MEANINGS[r]} |\n' for r in RESULTS)
    share = f'{good} of {subsample} ({100 * good / max(subsample, 1):.0f} %)'
    return (
        f'| result | backbones | meaning |\n|---|---:|---|\n{listed}\n'
        f'Of those that subsample, {share} are searched with every group obeying the law.\n'
    )


def page(records: Sequence['BackboneRecord | WrittenRow'], introduction: str) -> str:
    """The whole page, in the order of ``records``."""
    rows = '\n'.join(record.row() for record in records)
    return (
        f'{introduction}\n{summary(records)}\n'
        '| package | backbone | result | groups: stride·factor (error/effect) | four states '
        f'| remark |\n|---|---|---|---|---:|---|\n{rows}\n'
    )


def read_results(text: str) -> dict[tuple[str, str], tuple[str, int]]:
    """``{(package, backbone): (result, groups that pass)}`` of a page that `page` wrote."""
    known = '|'.join(map(re.escape, RESULTS))
    rows = re.findall(rf'^\| (\S+) \| ([^|]+?) \| ({known}) \| (.*?) \|', text, re.MULTILINE)
    return {
        (package, name): (result, groups.count('·') - groups.count('fails'))
        for package, name, result, groups in rows
    }


@dataclass(frozen=True)
class WrittenRow:
    """A row of a page, kept as it is."""

    package: str
    name: str
    result: str
    line: str

    def row(self) -> str:
        return self.line


def read_rows(text: str) -> dict[tuple[str, str], WrittenRow]:
    """The rows of a page that `page` wrote."""
    cells = [(line, [cell.strip() for cell in line.split('|')]) for line in text.splitlines()]
    return {
        (cell[1], cell[2]): WrittenRow(*cell[1:4], line)
        for line, cell in cells
        if len(cell) == 8 and cell[3] in RESULTS
    }


def regressions(
    before: dict[tuple[str, str], tuple[str, int]], records: Sequence[BackboneRecord]
) -> list[BackboneRecord]:
    """Those of which fewer groups pass than before, or none is searched any more."""
    return [
        record
        for record in records
        if _worse(record, *before.get((record.package, record.name), (ABSENT, 0)))
    ]


def _worse(record: BackboneRecord, result: str, groups: int) -> bool:
    rank = RESULTS.index
    passed = sum(group.passed for group in record.groups)
    searched = rank(result) <= rank(PARTLY)
    return searched and (rank(record.result) > rank(result) or passed < groups)


def _axes(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f'{pair[0]}x{pair[1]}'
