from functools import partial

from mmdiscard.engine import summary
from mmdiscard.execution import CostModel
from mmdiscard.subsampling import SubsamplingGroup

GROUPS = [
    SubsamplingGroup('layer2.0', (), (2, 2), (4, 4)),
    SubsamplingGroup('embed', (), (4, 4), (8, 8)),
]
COST = CostModel(before=(0.2, 0.5), backbone=0.9, macs=4_000_000_000)
describe = partial(summary.describe, cost_model=COST, divisor=(32, 32))


def entry(scores, cost=2.0, states=((0, 0), (1, 2)), size=(96, 64)):
    states = [list(s) for s in states]
    return dict(states=states, scores=scores, cost=cost, bound=cost, size=list(size))


def record(*passes):
    return dict(img_path='a.png', passes=list(passes))


def test_groups_are_described_even_without_an_image():
    lines = describe(GROUPS, []).splitlines()
    assert lines == [
        'mmdiscard summary',
        '  groups searched: layer2.0 (factor 2x2, input stride 4); '
        'embed (factor 4x4, input stride 8)',
    ]


def test_images_passes_states_and_cost_are_counted():
    three = entry([0.1, 0.2, 0.3], 3.0, ((0, 0), (1, 2), (3, 3)))
    text = describe(GROUPS, [record(entry([0.1, 0.2]), three), record(entry([0.1, 0.2]))])
    assert 'images: 2' in text
    assert 'without mmdiscard: 3' in text
    assert '2.33' in text  # both mean states and mean cost
    assert (
        'a plain forward is 4 G multiply-accumulates: '
        'before 20.0%, from layer2.0 30.0%, from embed 40.0%, head 10.0%'
    ) in text


def test_a_gate_shows_in_how_many_states_images_used():
    used = [1, 1, 1, 1, 2, 4, 5, 8, 9, 16]
    records = [record(entry(None, states=[(0, 0)] * count)) for count in used]
    text = describe(GROUPS, records)
    assert '4.80 on average (1: 40.0%, 2-4: 20.0%, 5-8: 20.0%, 9-16: 20.0%)' in text


def test_the_best_states_are_ranked_by_how_often_they_win():
    records = [record(entry(scores)) for scores in ([0.2, 0.1], [0.2, 0.1], [0.1, 0.2], [0.5, 0.1])]
    assert '(1, 2) 75.0%, (0, 0) 25.0%' in describe(GROUPS, records)


def test_only_the_most_frequent_winners_are_listed():
    records = [record(entry([0.1], states=((i // 4, i % 4),))) for i in range(8)]
    records += [record(entry([0.1], states=((3, 3),)))] * 2
    text = describe(GROUPS, records)
    assert '(3, 3) 20.0%' in text and text.count(') 10.0%') == 4 and 'and 4 more' in text


def test_without_scores_nothing_wins():
    text = describe(GROUPS, [record(entry(None))])
    assert 'states are the same for every image' in text


def test_images_that_the_stride_does_not_divide_are_counted():
    records = [record(entry(None, size=size)) for size in ((96, 64), (100, 64), (96, 96), (64, 1))]
    text = describe(GROUPS, records)
    assert '50.0% of the images have a side that the stride of 32 does not divide' in text
    assert 'model.data_preprocessor.test_cfg.size_divisor=32' in text
    assert 'divide' not in describe(GROUPS, records[::2])
    assert 'divide' not in describe(GROUPS, records, divisor=(1, 1))


def test_it_says_where_no_state_was_used():
    plain, searched = entry(None, states=((0, 0),)), entry(None)
    assert 'no state was used' not in describe(GROUPS, [record(plain), record(searched)])
    assert 'no state was used but the default one' in describe(GROUPS, [record(plain)] * 2)
    none = describe(GROUPS, [record(), record()])
    assert 'no state was used for any image' in none and 'those of the plain model' in none
    assert 'no state was used for 1 of 2 images' in describe(GROUPS, [record(), record(searched)])


def test_windows_are_summed_up():
    whole = entry(None, size=(100, 100))
    records = [
        record(whole | dict(windows=[[0, 0, 50, 40], [50, 60, 50, 40]])),
        record(whole | dict(windows=[])),
    ]
    text = describe(GROUPS, records)
    assert 'second look: 1.00 windows per image on average, 20.0% of its area' in text
    assert 'second look' not in describe(GROUPS, [record(whole)])
