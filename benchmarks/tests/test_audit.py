"""The audit of backbones: single ones, recorded results, the page, and the command."""

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from benchmarks.backbones import run
from benchmarks.backbones.audit import audit, registered
from benchmarks.backbones.audited import SAMPLE
from benchmarks.backbones.page import page, row
from benchmarks.backbones.results import (
    ABSENT,
    NOTHING,
    PARTLY,
    REFUSED,
    SEARCHED,
    AuditResults,
    BackboneRecord,
    GroupRecord,
    input_hashes,
    read_results,
    regressions,
    write_results,
)
from mmdiscard.errors import MMDiscardError


@pytest.fixture
def own_backbone():
    """Register a class as ``Own`` for one test."""

    def register(cls: type[nn.Module]) -> dict:
        MODELS.register_module(name='Own', module=cls)
        return dict(type='Own')

    yield register
    MODELS.module_dict.pop('Own', None)


@pytest.mark.parametrize(
    'package, config',
    [
        ('mmpretrain', dict(type='ResNet', depth=18, stem_channels=4, base_channels=4)),
        ('mmseg', dict(type='ResNetV1c', depth=18, stem_channels=4, base_channels=4)),
    ],
)
def test_a_backbone_that_works(package, config):
    record = audit(package, 'ResNet', config, 128)
    assert (record.result, record.remark) == (SEARCHED, '')
    assert [group.stride[0] for group in record.groups] == [1, 2, 4, 8, 16]
    assert all(group.passed for group in record.groups)
    assert 1 < record.cost < 4


class OneConv(nn.Module):
    """The smallest backbone."""

    stride = 2

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 2, self.stride)

    def forward(self, x):
        return self.conv(x)


def test_the_form_of_the_output_does_not_matter(own_backbone):
    class Own(OneConv):
        def forward(self, x):
            return dict(aux=None, out=self.conv(x))

    record = audit('mmpretrain', 'Own', own_backbone(Own), 32)
    assert (record.result, record.remark) == (SEARCHED, '')


def test_a_whole_model_of_timm():
    config = dict(type='TimmClassifier', model_name='resnet18', num_classes=4)
    record = audit('timm', 'resnet18', config, 64)
    assert record.result in (SEARCHED, PARTLY) and record.groups[-1].name == 'model.layer4.0'
    assert 1 < record.cost < 4


def test_the_same_twice(own_backbone):
    class Own(OneConv):
        def forward(self, x):
            return self.conv(x).relu()

    config = own_backbone(Own)
    assert audit('mmseg', 'Own', config, 32) == audit('mmseg', 'Own', config, 32)


def test_one_without_subsampling(own_backbone):
    class Own(OneConv):
        stride = 1

    assert audit('mmpretrain', 'Own', own_backbone(Own), 32).result == NOTHING


def test_one_whose_groups_do_not_translate(own_backbone):
    class Own(OneConv):
        """Every place has its own sign, so nothing can be moved."""

        def forward(self, x):
            signs = torch.randn(x.shape[2:], generator=torch.Generator().manual_seed(0)).sign()
            return self.conv(x * signs)

    record = audit('mmpretrain', 'Own', own_backbone(Own), 32)
    assert record.result == REFUSED and not record.groups[0].passed
    assert 'does not obey the translation law' in record.remark


def test_errors_of_others_are_remarks(own_backbone):
    class Own(OneConv):
        def forward(self, x):
            raise RuntimeError('no\nluck | today')

    record = audit('mmpretrain', 'Own', own_backbone(Own), 32)
    assert (record.result, record.remark) == (ABSENT, 'RuntimeError: no luck | today')
    assert row(record).count('|') == 7  # the one in the message is no column
    assert audit('mmseg', 'No', dict(type='NoSuchThing'), 32).result == ABSENT


def test_registered_backbones():
    assert 'ResNet' in registered('mmpretrain') and 'MixVisionTransformer' in registered('mmseg')
    assert 'LinearClsHead' not in registered('mmpretrain')


# -------------------------------------------------------------------------------- recorded results
GROUP = GroupRecord('stem', (1, 1), (2, 2), 0.01, True)
RECORDS = [
    BackboneRecord('mmseg', 'A (deploy)', SEARCHED, (GROUP,), 3.9),
    BackboneRecord('timm', 'b_0', PARTLY, (GROUP,), 4.0, 'why'),
    BackboneRecord('timm', 'c', REFUSED, (), None, 'why'),
]


def test_results_are_read_as_they_were_written(tmp_path):
    written = AuditResults(RECORDS, input_hashes())
    write_results(tmp_path / 'results.json', written)
    assert read_results(tmp_path / 'results.json') == written
    assert written.changed_inputs() == []
    assert read_results(tmp_path / 'absent.json') == AuditResults()
    assert AuditResults().changed_inputs() == ['subsampling', 'audited', 'pins']


def test_the_hash_depends_on_names_and_contents(tmp_path):
    folder = tmp_path / 'mmdiscard/subsampling'
    folder.mkdir(parents=True)
    found = set()
    for name, text in (('a.py', '1'), ('a.py', '2'), ('b.py', '2')):
        (folder / name).write_text(text)
        found.add(input_hashes(tmp_path)['subsampling'])
    assert len(found) == 3


def test_a_page_has_a_row_for_each():
    text = page(RECORDS)
    assert '1 of 3 (33 %)' in text
    assert '| mmseg | A (deploy) | searched | 1·2 (0.01) | 3.90 |  |' in text


@pytest.mark.parametrize(
    'position, result, groups, worse',
    [
        (0, SEARCHED, 1, False),
        (0, SEARCHED, 0, True),
        (0, PARTLY, 1, True),
        (1, REFUSED, 1, True),
        (1, SEARCHED, 2, False),
        (2, ABSENT, 0, False),
    ],
)
def test_regressions_are_those_that_passed(position, result, groups, worse):
    then = RECORDS[position]
    now = BackboneRecord(then.package, then.name, result, (GROUP,) * groups)
    new = BackboneRecord('timm', 'new', ABSENT)
    assert regressions(RECORDS, [now, new]) == ([now] if worse else [])


# ------------------------------------------------------------------------------------- the command
def test_one_that_no_longer_passes_ends_a_check_and_a_time_limit_costs_its_own_record(capsys):
    with pytest.raises(SystemExit, match='no longer do: mmpretrain LeNet5'):
        run.main(['--check', '--only', 'LeNet5', 'InterpConv', '--limit', '0'])
    shown = capsys.readouterr().out
    assert '| mmpretrain | LeNet5 | not built |  |  | took longer than 0 s |' in shown


def test_one_is_renewed_and_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(run, 'RESULTS', tmp_path / 'results.json')
    monkeypatch.setattr(run, 'PAGE', tmp_path / 'page.md')
    other = BackboneRecord('timm', 'resnet18', SEARCHED, (GROUP,), 3.9)
    write_results(run.RESULTS, AuditResults([other], dict(pins='1')))
    run.main(['--only', 'LeNet5'])
    results = read_results(run.RESULTS)
    assert [one.name for one in results.records] == ['LeNet5', 'resnet18']
    assert results.records[0].passed == 2 and results.records[1] == other
    assert results.inputs == dict(pins='1')  # not everything was audited
    assert run.PAGE.read_text() == page(results.records)
    run.main(['--check', '--only', 'LeNet5'])


def test_a_sample_is_audited_unless_an_input_changed():
    everything = run.entries()
    assert run.to_check(AuditResults()) == everything
    assert run.to_check(AuditResults(inputs=input_hashes() | dict(pins='1'))) == everything
    sample = run.to_check(AuditResults(inputs=input_hashes()))
    assert {one[:2] for one in sample} == SAMPLE and len(sample) == 15


def test_names_are_checked():
    with pytest.raises(MMDiscardError, match="no backbone 'NoSuchNet'"):
        run.entries(['NoSuchNet'])


def test_every_backbone_has_a_record_that_explains_itself():
    records = read_results(run.RESULTS).records
    assert [record.key for record in records] == [one[:2] for one in run.entries()]
    assert all(record.result == SEARCHED or record.remark for record in records)
    assert sum(record.package == 'timm' for record in records) >= 12
    assert run.PAGE.read_text() == page(records)


def test_the_share_of_those_that_are_searched():
    results = [record.result for record in read_results(run.RESULTS).records]
    good, bad = results.count(SEARCHED), results.count(PARTLY) + results.count(REFUSED)
    assert good / (good + bad) >= 0.9
