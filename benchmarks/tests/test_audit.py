"""The audit of backbones: what it says of one that works, one that half works, and none at all."""

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from benchmarks.backbones.audit import audit, registered
from benchmarks.backbones.page import (
    ABSENT,
    NOTHING,
    PARTLY,
    REFUSED,
    SEARCHED,
    BackboneRecord,
    GroupRecord,
    page,
    read_results,
    read_rows,
    regressions,
)


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
    assert record.row().count('|') == 7  # the one in the message is no column
    assert audit('mmseg', 'No', dict(type='NoSuchThing'), 32).result == ABSENT


def test_registered_backbones():
    assert 'ResNet' in registered('mmpretrain') and 'MixVisionTransformer' in registered('mmseg')
    assert 'LinearClsHead' not in registered('mmpretrain')


GROUP = GroupRecord('stem', (1, 1), (2, 2), 0.01, True)
RECORDS = [
    BackboneRecord('mmseg', 'A (deploy)', SEARCHED, (GROUP,), 3.9),
    BackboneRecord('timm', 'b_0', PARTLY, (GROUP,), 4.0, 'why'),
    BackboneRecord('timm', 'c', REFUSED, (), None, 'why'),
]


def test_a_page_is_read_as_it_was_written():
    text = page(RECORDS, '# Title\n')
    assert '1 of 3 (33 %)' in text and '1·2 (0.01)' in text
    assert read_results(text) == {(r.package, r.name): (r.result, len(r.groups)) for r in RECORDS}


def test_rows_of_a_page_are_kept_as_they_are():
    text = page(RECORDS, '# Title\n')
    assert page(list(read_rows(text).values()), '# Title\n') == text


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
    before = read_results(page(RECORDS, ''))
    then = RECORDS[position]
    now = BackboneRecord(then.package, then.name, result, (GROUP,) * groups)
    new = BackboneRecord('timm', 'new', ABSENT)
    assert regressions(before, [now, new]) == ([now] if worse else [])
