"""Fixed states as one module: what the attached model merges, with every prefix once."""

import pytest
import torch
from small_models import (
    SEGFORMER_HEAD,
    SMALL_MIT,
    SMALL_RESNET,
    assert_near,
    classifier,
    images,
    mit_segmentor,
    segmentor,
)

import mmdiscard
from mmdiscard.aggregation.alignment import blend, translate
from mmdiscard.errors import MMDiscardError
from mmdiscard.graphs import MergedModel, fixed_states
from mmdiscard.graphs import fixed_alignment as fixed
from mmdiscard.graphs.graph_formats import TorchExport, exported_program, has_dynamic_export
from mmdiscard.graphs.merged_model import check_labels
from mmdiscard.graphs.state_plan import Step, plan_states

SPREAD = dict(type='SpreadStates', budget=4)
ENTROPY = dict(type='EntropyAggregator', on='logits', align='exact')
MEAN = dict(type='AverageAggregator', on='logits', align='exact')
PAPER = dict(type='EntropyAggregator', on='features', align='bilinear')
POOLING = SMALL_RESNET | dict(avg_down=True)  # strided poolings, which divide by what they hold
TINY_MIT = SMALL_MIT | dict(num_stages=2, num_layers=[1, 1], num_heads=[1, 1], strides=[4, 2])
TINY_MIT |= dict(patch_sizes=[7, 3], sr_ratios=[8, 4], out_indices=(0, 1))
TINY_HEAD = SEGFORMER_HEAD | dict(in_channels=[8, 8], in_index=[0, 1])
CASES = {
    'classifier': (classifier, [-3, -2, -1], PAPER),
    'pooling': (lambda: classifier(backbone=POOLING), 'all', dict(PAPER, on='logits')),
    'stride 8': (segmentor, [-1], MEAN),
    'stride 8, all groups': (segmentor, 'all', ENTROPY),
    'MiT': (mit_segmentor, [0, 1], ENTROPY),
}


def attach(model, groups, aggregator, search=SPREAD):
    return mmdiscard.attach(model, dict(groups=groups, input_size=64), search, aggregator)


@torch.no_grad()
@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_the_module_gives_what_the_attached_model_gives(case):
    build, groups, aggregator = case
    model = build()
    with attach(model, groups, aggregator) as ensemble:
        states = fixed_states(ensemble)
        assert len(states) == 4
        for labels in (False, True):
            module = MergedModel(ensemble, states, images(1), labels=labels).eval()
            found, expected = module(images(3)), ensemble.predict(images(3))
            module.remove()
            if labels:
                assert torch.equal(found, expected.argmax(1))
            else:
                assert_near(found, expected)
        plain = MergedModel(ensemble, [(0,) * len(ensemble.groups)], images(1)).eval()
        default = plain(images(3))
        plain.remove()
    assert torch.equal(default, plain_logits(model, images(3)))


def plain_logits(model, inputs):
    if hasattr(model, 'decode_head'):
        size = inputs.shape[2:]
        return model.encode_decode(inputs, [dict(ori_shape=size, img_shape=size, pad_shape=size)])
    return model(inputs)


# --------------------------------------------------------------------------------------- graphs
GRAPHS = {
    'classifier': (classifier, [-1], PAPER),
    'stride 8': (segmentor, [-1], MEAN),
    'MiT': (lambda: segmentor(backbone=TINY_MIT, head=TINY_HEAD), [-1], ENTROPY),
}


@pytest.mark.skipif(not has_dynamic_export(), reason='torch.export of this PyTorch is too early')
@torch.no_grad()
@pytest.mark.parametrize('case', GRAPHS.values(), ids=GRAPHS)
def test_a_graph_takes_any_batch_and_computes_shared_prefixes_once(case):
    from torch.utils.flop_counter import FlopCounterMode

    build, groups, aggregator = case
    two = dict(type='SpreadStates', budget=2)
    with attach(build().requires_grad_(False), groups, aggregator, two) as ensemble:
        module = MergedModel(ensemble, fixed_states(ensemble), images(1)).eval()
        graph = exported_program(module, images(2), {0: ('batch', 1)}).module()
        module.remove()
        expected = ensemble.predict(images(3))
        with FlopCounterMode(display=False) as counter:
            found = graph(images(3))
        macs, bound = ensemble.cost_model.macs, ensemble.last.bound
    assert_near(found, expected)
    # Maps that are extended by a block take a little more than the bound counts.
    assert bound < 1.95 and counter.get_total_flops() / (2 * 3 * macs) == pytest.approx(bound, 0.05)


@pytest.mark.skipif(has_dynamic_export(), reason='torch.export of this PyTorch will do')
def test_an_early_torch_export_is_refused():
    with pytest.raises(MMDiscardError, match='needs a later PyTorch than'):
        TorchExport().check()


# ----------------------------------------------------------------------------------------- plans
def test_states_begin_where_another_has_the_same_indices():
    states = [(0, 0, 0), (0, 0, 3), (0, 2, 0), (1, 2, 0)]
    assert plan_states(states, lambda column: True) == [
        Step((0, 0, 0), record={0, 1, 2}),
        Step((0, 0, 3), entry=2, source=0),
        Step((0, 2, 0), entry=1, source=0),
        Step((1, 2, 0), entry=0, source=0),
    ]


def test_a_group_that_cannot_be_entered_is_passed_over():
    states = [(0, 0, 0), (0, 0, 3), (1, 0, 0)]
    assert [step.entry for step in plan_states(states, lambda column: column == 1)] == [
        None,
        1,
        None,
    ]


# ------------------------------------------------------------------------------------- alignment
@pytest.mark.parametrize('cells', [(0, 0), (3, 0), (-2, 1), (1, -4)])
def test_maps_are_moved_as_the_core_moves_them(cells):
    maps = torch.randn(2, 3, 6, 7)
    assert torch.equal(fixed.translate(maps, *cells), translate(maps, torch.tensor([cells] * 2)))


@pytest.mark.parametrize('share', [(0.0, 0.0), (0.5, 0.0), (0.25, 0.75)])
def test_maps_are_blended_as_the_core_blends_them(share):
    maps = torch.randn(2, 3, 6, 7)
    assert_near(fixed.blend(maps, *share), blend(maps, torch.tensor([share] * 2)))


# -------------------------------------------------------------------------------------- refusals
GATE = dict(type='EntropyGate', threshold=0.5)


@pytest.mark.parametrize(
    ('search', 'aggregator', 'reason'),
    [
        (dict(type='GreedySearch', budget=3), PAPER, 'GreedySearch cannot be exported: it chooses'),
        (dict(SPREAD, gate=GATE), PAPER, 'SpreadStates cannot be exported: its gate ends images'),
        (SPREAD, dict(type='AttentionAggregator'), 'AttentionAggregator cannot be exported'),
    ],
)
def test_what_no_graph_can_hold_is_refused(search, aggregator, reason):
    with (
        attach(classifier(), [-1], aggregator, search) as ensemble,
        pytest.raises(MMDiscardError, match=reason),
    ):
        fixed_states(ensemble)


def test_labels_of_a_multi_label_head_are_refused():
    head = dict(type='MultiLabelLinearClsHead', num_classes=7, in_channels=32)
    with (
        attach(classifier(head=head), [-1], PAPER) as ensemble,
        pytest.raises(MMDiscardError, match='any number of labels'),
    ):
        check_labels(ensemble.adapter)
