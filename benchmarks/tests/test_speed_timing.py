"""What a benchmark measures: methods that agree, turns that alternate, memory that is bounded."""

import pytest
import torch
from mmengine.config import Config
from small_models import (
    SMALL_RESNET,
    classifier,
    images,
    mit_segmentor,
    segmentor,
)

from benchmarks.speed import timing as benchmark
from benchmarks.speed.methods import METHODS, BenchmarkSetup, Naive
from benchmarks.speed.peak_memory import peak_memory
from benchmarks.speed.reference_loop import StateLoop
from benchmarks.speed.timing import prepare_methods
from mmdiscard.errors import MMDiscardError

CPU = torch.device('cpu')
GREEDY = dict(type='GreedySearch', budget=2)
ENTROPY = dict(type='EntropyAggregator', on='features', align='bilinear')
EXACT = dict(type='AverageAggregator', on='logits', align='exact')
ENTROPY_EXACT = dict(type='EntropyAggregator', on='logits', align='exact')
UNALIGNED = dict(type='AverageAggregator', on='features', align='none')
TTA = [
    dict(
        type='TestTimeAug',
        transforms=[[dict(type='Resize', scale_factor=s) for s in (0.5, 1.0, 1.5)], []],
    )
]


def setup_of(model, scope='mmseg', count=2, size=(64, 64), **settings) -> BenchmarkSetup:
    settings.setdefault('search', GREEDY)
    settings.setdefault('subsampling', dict(groups='all'))
    cfg = Config(dict(default_scope=scope, tta_pipeline=TTA))
    return BenchmarkSetup(model, images(count, size), settings, cfg)


# ------------------------------------------------------------------------------------- agreement
@pytest.mark.parametrize(
    ('build', 'aggregator'),
    [
        (classifier, ENTROPY),
        (classifier, UNALIGNED),
        (segmentor, EXACT),
        (segmentor, ENTROPY),
        (mit_segmentor, EXACT),
        (mit_segmentor, ENTROPY_EXACT),
    ],
)
def test_plain_loop_equals_the_engine(build, aggregator):
    setup = setup_of(build(), aggregator=aggregator)
    naive = Naive(setup, 6)
    assert naive.states == 6
    assert naive.difference < 1e-5
    assert naive.bound == pytest.approx(prepare_methods(setup, ['search'], [6])[-1].bound)


def test_plain_loop_where_images_use_different_numbers_of_states():
    model = classifier()
    gate = dict(type='EntropyGate', threshold=0.9)
    setup = setup_of(model, count=4, search=dict(GREEDY, gate=gate), aggregator=ENTROPY)
    naive = Naive(setup, 5)
    assert 1 <= naive.states <= 5
    assert naive.difference < 1e-5


def test_translated_images_equal_states_away_from_the_borders():
    settings = dict(subsampling=dict(groups=[-1]), search=dict(type='SpreadStates', budget=4))
    setup = setup_of(segmentor(), count=1, size=(192, 192), aggregator=EXACT, **settings)
    middle = (..., slice(88, 104), slice(88, 104))
    naive, translated, alone = (
        METHODS[name](setup, budget).logits()[middle]
        for name, budget in (('naive', 4), ('translated', 4), ('naive', 1))
    )
    assert (translated - naive).abs().max() < 0.2 * (alone - naive).abs().max()


def test_copies_share_weights_and_leave_the_model_alone():
    model = classifier()
    setup = setup_of(model)
    before = model.state_dict()
    twin = setup.ensemble(GREEDY).adapter.model
    assert twin is not model
    assert all(a is b for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())
    assert setup.ensemble(GREEDY) is setup.ensemble(dict(GREEDY))
    assert model.state_dict().keys() == before.keys()


# --------------------------------------------------------------------------------------- methods
def test_every_method_of_a_classifier():
    setup = setup_of(classifier(), scope='mmpretrain')
    found = prepare_methods(setup, list(METHODS), [2, 4])
    assert [(one.name, one.states) for one in found] == [
        *(('search', 1), ('search', 2), ('search', 4), ('spread', 2), ('spread', 4)),
        *(('deepest', 4), ('naive', 2), ('naive', 4), ('translated', 2), ('translated', 4)),
        *(('tta', 2), ('tta', 4)),
    ]
    assert [one.bound is None for one in found] == [
        one.name in ('translated', 'tta') for one in found
    ]
    assert all(view.shape[2:] == (64, 64) for view, _ in found[-1].views)


def test_views_are_those_of_the_config():
    setup = setup_of(segmentor())
    sizes = [(tuple(view.shape[2:]), flip) for view, flip in METHODS['tta'](setup, 5).views]
    near = [((64, 64), False), ((64, 64), True), ((32, 32), False), ((32, 32), True)]
    assert sizes == [*near, ((96, 96), False)]
    assert METHODS['tta'](setup, 50).states == 6


def test_a_search_that_names_its_states_needs_no_budget():
    search = dict(type='FixedStates', states=[[0, 0, 0], [0, 0, 1], [0, 0, 3]])
    model = segmentor()
    found = prepare_methods(
        setup_of(model, search=search, aggregator=EXACT), ['search', 'naive'], [4, 10]
    )
    assert [(one.name, one.states) for one in found] == [('search', 3), ('naive', 3)]
    assert found[1].difference < 1e-5


def test_budget_beyond_the_states():
    with pytest.raises(MMDiscardError, match='budget 100 is more than the 64 states'):
        prepare_methods(setup_of(classifier(), subsampling=dict(groups='inner')), ['search'], [100])


def test_plain_loop_refuses_what_it_does_not_know():
    setup = setup_of(classifier())
    ensemble = setup.ensemble(dict(GREEDY, budget=4))
    ensemble.aggregator.alignment = object()
    with pytest.raises(MMDiscardError, match='does not know object; leave it out'):
        StateLoop(setup.copy(), ensemble, ensemble.last)


# ----------------------------------------------------------------------------------- measurement
def test_plain_predictions_stand_between_all_others():
    order = []
    calls = [lambda: order.append('a'), lambda: order.append('b')]
    times = benchmark.time_turns(lambda: order.append('.'), calls, 3, CPU)
    assert ''.join(order) == '.' + '.a.b.' * 3
    assert [len(one.own) for one in times] == [3, 3, 3]


def test_records_are_medians_of_ratios_within_turns():
    times = benchmark.Times(own=(4.0, 30.0, 6.0), plain=(2.0, 10.0, 2.0))
    assert times.record() == dict(seconds=6.0, ratio=3.0, ratio_min=2.0, ratio_max=3.0)


def test_records_hold_what_was_measured():
    methods = prepare_methods(setup_of(classifier()), ['search'], [2])
    times = [benchmark.Times((2.0,), (1.0,))] * 3
    plain, one, two = benchmark.records(methods, times, [100, 100, 150])
    assert (plain['method'], plain['bound'], plain['peak_ratio']) == ('plain', 1.0, 1.0)
    assert (one['budget'], two['budget']) == (1, 2)
    assert two['quotient'] == 2.0 / two['bound']
    assert two['peak_ratio'] == 1.5
    assert 'ratio' not in next(iter(benchmark.records(methods, None, [1, 1, 1])))
    assert 'peak_bytes' not in next(iter(benchmark.records(methods, times, None)))


@pytest.mark.parametrize('build', [classifier, segmentor])
def test_peak_memory_does_not_grow_with_the_budget(build):
    setup = setup_of(build(), max_rows=2, max_cache_bytes=0)
    few, many = (prepare_methods(setup, ['search'], [budget])[-1] for budget in (4, 16))
    assert peak_memory(many.predict) <= 1.1 * peak_memory(few.predict)


# ---------------------------------------------------------------------------------------- models
def test_classes_reach_every_head():
    model = dict(head=dict(num_classes=3), decode_head=[dict(), dict(num_classes=2)])
    benchmark.set_classes(model, 150)
    assert [head['num_classes'] for head in (model['head'], *model['decode_head'])] == [150] * 3


def test_an_image_that_the_model_refuses():
    model = classifier(backbone=SMALL_RESNET)
    model.backbone.conv1 = torch.nn.Conv2d(5, 4, 3)
    with pytest.raises(MMDiscardError, match='does not run on images of 64 x 64'):
        benchmark.check_plain(setup_of(model))


def test_a_device_that_is_not_there():
    with pytest.raises(MMDiscardError, match='--device nowhere cannot be used'):
        benchmark.check_device('nowhere')


def test_the_machine_is_named():
    found = benchmark.machine(CPU)
    assert found['cpu']
    assert found['threads'] == torch.get_num_threads()
    assert found['torch'] == torch.__version__
