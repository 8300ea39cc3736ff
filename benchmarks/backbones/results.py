"""Results of the audit as a JSON file, the source that docs/backbones.md is made from."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmdiscard.utils import read_json, write_json

SEARCHED, PARTLY, NOTHING, REFUSED, ABSENT = RESULTS = (
    'searched',
    'partly',
    'nothing to search',
    'not supported',
    'not built',
)
ROOT = Path(__file__).parents[2]
INPUTS = {
    'subsampling': 'mmdiscard/subsampling/*.py',
    'audited': 'benchmarks/backbones/audited.py',
    'pins': 'constraints/onedl.txt',
}


@dataclass(frozen=True)
class GroupRecord:
    """One subsampling group of one backbone and its result under the translation oracle.

    Attributes:
        name: of the group, as `mmdiscard.find_subsampling` gives it.
        stride: ``(y, x)`` of its input, in image pixels.
        factor: ``(Ry, Rx)`` by which it subsamples.
        ratio: error over effect, see `mmdiscard.translation_oracle`.
        passed: whether the ratio is small enough.
    """

    name: str
    stride: tuple[int, int]
    factor: tuple[int, int]
    ratio: float
    passed: bool


@dataclass(frozen=True)
class BackboneRecord:
    """What the audit found for one backbone.

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

    @property
    def key(self) -> tuple[str, str]:
        """Package and name."""
        return self.package, self.name

    @property
    def passed(self) -> int:
        """Number of groups that pass."""
        return sum(group.passed for group in self.groups)


@dataclass(frozen=True)
class AuditResults:
    """Records of all backbones, and what they were made from.

    Attributes:
        records: in the order of the page.
        inputs: content hashes of `INPUTS` when everything was last audited; empty if never.
    """

    records: Sequence[BackboneRecord] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)

    def changed_inputs(self) -> list[str]:
        """Names of the inputs that differ from those of the last complete audit."""
        return [name for name, now in input_hashes().items() if self.inputs.get(name) != now]


def input_hashes(root: Path = ROOT) -> dict[str, str]:
    """SHA-256 of names and contents of the files that the audit's results depend on."""
    return {name: _digest(sorted(root.glob(files)), root) for name, files in INPUTS.items()}


def _digest(paths: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f'{path.relative_to(root)} {len(content)}\n'.encode() + content)
    return digest.hexdigest()


def read_results(path: Path) -> AuditResults:
    """Results that `write_results` wrote; none if there is no such file."""
    if not path.is_file():
        return AuditResults()
    content = read_json(path)
    return AuditResults([_record(**fields) for fields in content['backbones']], content['inputs'])


def _record(groups: Sequence[Mapping[str, Any]], **fields: Any) -> BackboneRecord:
    def group(stride: list[int], factor: list[int], **rest: Any) -> GroupRecord:
        return GroupRecord(stride=tuple(stride), factor=tuple(factor), **rest)

    return BackboneRecord(groups=tuple(group(**one) for one in groups), **fields)


def write_results(path: Path, results: AuditResults) -> None:
    """Write results as JSON, ratios and costs with the digits that other machines reproduce."""
    backbones = [asdict(record) for record in results.records]
    for fields in backbones:
        fields['cost'] = fields['cost'] and round(fields['cost'], 4)
        for group in fields['groups']:
            group['ratio'] = round(group['ratio'], 4)
    write_json(path, dict(inputs=dict(results.inputs), backbones=backbones))


def regressions(
    before: Sequence[BackboneRecord], now: Sequence[BackboneRecord]
) -> list[BackboneRecord]:
    """Records of backbones of which fewer groups pass than before, or none is searched any more."""
    known = {record.key: record for record in before}
    return [record for record in now if record.key in known and _worse(record, known[record.key])]


def _worse(now: BackboneRecord, before: BackboneRecord) -> bool:
    rank = RESULTS.index
    if rank(before.result) > rank(PARTLY):
        return False
    return rank(now.result) > rank(before.result) or now.passed < before.passed
