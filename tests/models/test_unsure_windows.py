"""Windows around the unsure parts of images: states and mirror images of these alone."""

import pytest
import torch
from small_models import (
    FCN_HEAD,
    SMALL_D8,
    SMALL_RESNET_4_LEVELS,
    classifier,
    images,
    mit_segmentor,
    seg_samples,
    segmentor,
)

import mmdiscard
from mmdiscard import MMDiscardError
from mmdiscard.models.unsure_windows import UnsureWindows
from mmdiscard.models.windows import kept_part

SIZE = (64, 96)
STATES = dict(type='SpreadStates', budget=2)
PLAIN = dict(type='SpreadStates', budget=1)
EXACT = dict(type='AverageAggregator', on='logits', align='exact')
SLIDE = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))
PYRAMID = dict(backbone=SMALL_RESNET_4_LEVELS)
#: stride 4, and a pixel sees no more than 32 pixels of its surroundings
SHALLOW = SMALL_D8 | dict(
    num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,), contract_dilation=False
)


def attached(model, where, search=STATES, aggregator=EXACT, size=SIZE, groups='auto', **options):
    subsampling = dict(groups=groups, input_size=size)
    return mmdiscard.attach(model, subsampling, search, aggregator, where=where, **options)


@torch.no_grad()
def logits(model, batch, size=SIZE, **meta):
    metas = [sample.metainfo for sample in seg_samples(len(batch), size, **meta)]
    return model.inference(batch, metas)


# ------------------------------------------------------------------------------- which windows
def chosen(uncertainty, step=(8, 8), valid=None, **where):
    return UnsureWindows.parse(dict(halo=0) | where).choose(uncertainty, step, valid)


def test_the_window_with_most_uncertainty_comes_first_and_none_is_covered_twice():
    uncertainty = torch.zeros(1, 64, 64)
    uncertainty[0, 40:48, 8:24] = 1.0  # exactly one window
    uncertainty[0, 0:4, 50:64] = 0.5  # at the corner, not aligned
    windows = chosen(uncertainty, size=(8, 16), share=1.0)
    assert windows.boxes == ((0, 40, 8), (0, 0, 48))  # nothing else is unsure
    assert windows.of_image(0) == [[40, 8, 8, 16], [0, 48, 8, 16]]


def test_a_halo_is_no_reason_to_choose_a_window():
    uncertainty = torch.zeros(1, 64, 64)
    uncertainty[0, 31] = 1.0
    (_, top, _), *_ = chosen(uncertainty, size=16, halo=4, share=0.1).boxes
    assert top + 4 <= 31 < top + 12


def test_images_choose_by_themselves_and_share_bounds_the_area():
    uncertainty = torch.rand(5, 64, 96, generator=torch.Generator().manual_seed(0))
    together = chosen(uncertainty, size=(16, 24), halo=4, share=0.3)
    for index, own in enumerate(uncertainty):
        alone = chosen(own[None], size=(16, 24), halo=4, share=0.3)
        assert alone.of_image(0) == together.of_image(index)
        assert len(alone) == 4  # of 16: 0.25 of the area, a fifth would be 0.31
    assert not chosen(uncertainty, size=(16, 24), share=0.0).boxes


def test_padding_to_a_multiple_counts_as_area_of_the_image_and_that_to_another_image_does_not():
    uncertainty = torch.ones(2, 128, 64)
    windows = chosen(uncertainty, size=(32, 32), share=0.5, valid=[(120, 60), (60, 60)])
    assert [len(windows.of_image(index)) for index in (0, 1)] == [4, 2]


def test_windows_stay_inside_and_padding_is_not_looked_at():
    uncertainty = torch.ones(2, 60, 90)
    windows = chosen(uncertainty, size=(16, 16), share=4.0, valid=[(60, 90), (40, 32)])
    assert all(0 <= top <= 44 and 0 <= left <= 74 for _, top, left in windows.boxes)
    covered = torch.zeros(2, 1, 60, 90)
    windows.paste(covered, torch.ones(len(windows), 1, 16, 16))
    assert covered[0].all()
    assert covered[1, :, :40, :32].all()
    assert not covered[1, :, 48:].any() and not covered[1, :, :, 32:].any()


def test_paste_drops_the_halo_inside_and_undoes_crop():
    maps = torch.rand(2, 3, 64, 96)
    windows = chosen(maps.mean(1), size=(32, 32), halo=8, share=0.6)
    parts = windows.crop(maps)
    assert parts.shape == (2 * 3, 3, 32, 32)
    canvas = torch.full_like(maps, -1.0)
    windows.paste(canvas, parts)
    inside = canvas != -1
    assert torch.equal(canvas[inside], maps[inside])
    assert [kept_part(start, 32, 96, 8) for start in (0, 32, 64)] == [(0, 24), (40, 56), (72, 96)]


# ------------------------------------------------------------------------------------- the model
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        PYRAMID,
        dict(head=FCN_HEAD | dict(align_corners=True)),
        dict(head=FCN_HEAD | dict(num_classes=2, out_channels=1, threshold=0.3)),
        dict(test_cfg=SLIDE),
    ],
    ids=['stride 8', 'pyramid', 'align_corners', 'binary', 'slide'],
)
def test_no_window_is_the_plain_model_bitwise_and_one_of_the_whole_image_is_today(options):
    model, batch = segmentor(**options), images(2, SIZE)
    slide = 'test_cfg' in options
    size = (64, 64) if slide else SIZE
    plain = logits(model, batch)
    with attached(model, None, size=size):
        everywhere = logits(model, batch)
    with attached(model, dict(share=0.0), size=size) as ensemble:
        assert torch.equal(logits(model, batch), plain)
        assert ensemble.last.cost == 1.0 and ensemble.last.counts.tolist() == [1, 1]
    with attached(model, dict(size=size, halo=0, share=1.0), size=size) as ensemble:
        assert torch.equal(logits(model, batch), everywhere)
        assert ensemble.last.cost == pytest.approx(2.0)
    assert not torch.equal(everywhere, plain)
    assert torch.equal(logits(model, batch), plain)  # and the model comes back


@pytest.mark.parametrize(
    'aggregator', [EXACT, dict(type='EntropyAggregator', on='logits', align='exact')]
)
def test_windows_that_cover_everything_equal_the_whole_image_away_from_their_edges(aggregator):
    """With a halo as wide as what a pixel sees, plus the displacement, they do so everywhere."""
    head = FCN_HEAD | dict(in_channels=4, in_index=0, num_convs=0, channels=4)
    model, batch = segmentor(backbone=SHALLOW, head=head), images(1, (128, 128))
    options = dict(aggregator=aggregator, size=(128, 128), groups=[0])
    with attached(model, None, **options):
        everywhere = logits(model, batch, (128, 128))
    errors = {}
    for halo in (0, 32):
        where = dict(size=80, halo=halo, share=30.0)
        with attached(model, where, **options) as ensemble:
            found = logits(model, batch, (128, 128))
        assert len(ensemble.last.windows[0]) > 3
        errors[halo] = float((found - everywhere).abs().max())
    assert errors[32] < 1e-5 < 1e-3 < errors[0]


def mirrored(model, batch, size=SIZE):
    return logits(model, batch.flip(3), size).flip(3)


@pytest.mark.parametrize(
    'options',
    [dict(), PYRAMID, dict(head=FCN_HEAD | dict(align_corners=True)), dict(test_cfg=SLIDE)],
    ids=['stride 8', 'pyramid', 'align_corners', 'slide'],
)
def test_mirror_images_of_a_window_of_the_whole_image_are_those_of_the_image(options):
    model, batch = segmentor(**options), images(2, SIZE)
    size = (64, 64) if 'test_cfg' in options else SIZE
    expected = (logits(model, batch) + mirrored(model, batch)) / 2
    where = dict(size=size, halo=0, share=1.0, flip=True)
    with attached(model, where, PLAIN, size=size) as ensemble:
        found = logits(model, batch)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, logits(model, batch), rtol=1e-2, atol=1e-3)
    # Prices say what the executor computes, up to the rows it enters a backbone with.
    assert ensemble.last.cost == pytest.approx(1 + ensemble.windows.price, rel=0.1)


def test_mirrored_windows_that_cover_everything_equal_the_whole_mirror_image():
    """With a halo as wide as what a pixel sees."""
    head = FCN_HEAD | dict(in_channels=4, in_index=0, num_convs=0, channels=4)
    model, batch = segmentor(backbone=SHALLOW, head=head), images(2, (128, 128))
    options = dict(search=PLAIN, size=(128, 128), groups=[0])
    expected = logits(model, batch, (128, 128)) + mirrored(model, batch, (128, 128))
    errors = {}
    for halo in (0, 32):
        where = dict(size=80, halo=halo, share=30.0, flip=True)
        with attached(model, where, **options) as ensemble:
            found = logits(model, batch, (128, 128))
        assert len(ensemble.last.windows[0]) > 3
        errors[halo] = float((found - expected / 2).abs().max())
    assert errors[32] < 1e-5 < 1e-3 < errors[0]


def test_states_of_mirror_images_alone():
    model, batch = segmentor(**PYRAMID), images(2, SIZE)
    plain, default = logits(model, batch), mirrored(model, batch)
    with attached(model, None):
        other = 2 * mirrored(model, batch) - default
    where = dict(size=SIZE, halo=0, share=1.0, flip=True)
    with attached(model, where) as ensemble:
        found = logits(model, batch)
    # Where the state, moved back, covers nothing, the default state of either view is left.
    expected = (plain + other) / 2
    inner = (..., slice(16, -16), slice(16, -16))
    assert torch.allclose(found[inner], expected[inner], rtol=1e-3, atol=1e-4)
    assert ensemble.last.cost == pytest.approx(2.0)


@pytest.mark.parametrize('search', [PLAIN, STATES], ids=['flip', 'flipped state'])
def test_no_mirrored_window_is_the_plain_model_bitwise(search):
    model, batch = segmentor(**PYRAMID), images(2, SIZE)
    plain = logits(model, batch)
    with attached(model, dict(share=0.0, flip=True), search) as ensemble:
        assert torch.equal(logits(model, batch), plain)
        assert ensemble.last.cost == 1.0


def test_outside_of_windows_nothing_changes_and_inside_they_do():
    model, batch = segmentor(**PYRAMID), images(2, (128, 128))
    plain = logits(model, batch, (128, 128))
    with attached(model, dict(size=64, halo=8, share=0.25), size=(128, 128)) as ensemble:
        found = logits(model, batch, (128, 128))
    result = ensemble.last
    for index, ((top, left, *_),) in enumerate(result.windows):
        (y0, y1), (x0, x1) = kept_part(top, 64, 128, 8), kept_part(left, 64, 128, 8)
        inside = torch.zeros(128, 128, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert torch.equal(found[index][:, ~inside], plain[index][:, ~inside])
        assert (found[index] != plain[index])[:, inside].float().mean() > 0.9
    assert result.cost == pytest.approx(1.25)
    assert result.states.tolist() == [[[0], [3]]] * 2 and result.size == (128, 128)


@pytest.mark.parametrize('make', [lambda: segmentor(**PYRAMID), mit_segmentor], ids=['CNN', 'MiT'])
@pytest.mark.parametrize('flip', [False, True])
def test_batches_change_nothing(make, flip):
    model, batch = make(), images(3, (128, 128))
    where = dict(size=64, share=0.5, flip=flip)
    with attached(model, where, size=(128, 128), max_rows=5) as ensemble:
        together = logits(model, batch, (128, 128))
        windows = ensemble.last.windows
        for index, image in enumerate(batch):
            alone = logits(model, image[None], (128, 128))
            assert ensemble.last.windows[0] == windows[index]
            # Kernels round by the size of the batch, in the plain model too.
            assert torch.allclose(alone[0], together[index], rtol=1e-3, atol=1e-4)


def test_weights_of_states_count_in_windows_alone():
    aggregator = dict(type='EntropyAggregator', on='logits', align='none')
    model, batch = segmentor(**PYRAMID), images(1, (128, 128))
    with attached(model, dict(share=0.0), aggregator=aggregator, size=(128, 128)) as ensemble:
        logits(model, batch, (128, 128))
        plain = ensemble.last.weight
    where = dict(size=64, halo=0, share=0.25)
    with attached(model, where, aggregator=aggregator, size=(128, 128)) as ensemble:
        logits(model, batch, (128, 128))
        ((top, left, *_),) = ensemble.last.windows[0]
        more = ensemble.last.weight - plain
    inside = torch.zeros_like(more, dtype=torch.bool)
    inside[:, :, top : top + 64, left : left + 64] = True
    assert (more[inside] > 0).all() and (more[~inside] == 0).all()


def test_states_disagree_in_windows_alone():
    model, batch = segmentor(**PYRAMID), images(1, SIZE)
    with attached(model, None, uncertainty=True) as ensemble:
        logits(model, batch)
        everywhere = ensemble.last.disagreement
    with attached(model, dict(size=SIZE, halo=0, share=1.0), uncertainty=True) as ensemble:
        logits(model, batch)
        assert torch.equal(ensemble.last.disagreement, everywhere) and everywhere.max() > 0
    with attached(model, dict(size=(32, 32), halo=0, share=0.2), uncertainty=True) as ensemble:
        logits(model, batch)
        ((top, left, *_),) = ensemble.last.windows[0]
    inside = torch.zeros(1, *SIZE, dtype=torch.bool)
    inside[:, top : top + 32, left : left + 32] = True
    found = ensemble.last.disagreement
    assert found[inside].max() > 0 and (found[~inside] == 0).all()


def test_a_cost_is_kept():
    model, batch = segmentor(**PYRAMID), images(1, (128, 128))
    for cost, states, flip in ((1.0, 2, False), (1.4, 4, False), (1.4, 1, True), (2.5, 4, True)):
        search = dict(type='SpreadStates', budget=states)
        where = dict(size=32, halo=0, cost=cost, flip=flip)
        with attached(model, where, search, size=(128, 128)) as ensemble:
            logits(model, batch, (128, 128))
        looks = max(states - 1, flip)
        assert cost - looks / 16 <= ensemble.last.cost <= cost + 1e-9


def test_the_image_as_a_group():
    model, batch = segmentor(**PYRAMID), images(1, (128, 128))
    with attached(model, None, size=(128, 128), groups=['image']):
        everywhere = logits(model, batch, (128, 128))
    where = dict(size=128, halo=0, share=1.0)
    with attached(model, where, size=(128, 128), groups=['image']):
        assert torch.equal(logits(model, batch, (128, 128)), everywhere)


def test_smaller_images_than_windows_are_taken_whole():
    model = segmentor(**PYRAMID)
    with attached(model, dict(size=96, halo=0, share=1.0), size=(96, 96)) as ensemble:
        logits(model, images(1, (64, 64)), (64, 64))
    assert ensemble.last.windows == ([[0, 0, 64, 64]],)


# ---------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ('where', 'message'),
    [
        ('sure', "where must be 'unsure' or a dict"),
        (dict(tiles=3), "where must be 'unsure' or a dict"),
        (dict(size=(32, 32, 32)), 'size must be'),
        (dict(size=0), 'size must be'),
        (dict(halo=-1), 'halo must be a whole number'),
        (dict(size=64, halo=17), 'leaves less than one cell of the coarsest stride, 32, of'),
        (dict(share=-0.1), 'share must be a number, 0 or more'),
        (dict(cost=0.9), 'cost must be a number, 1 or more'),
        (dict(flip='left'), 'flip must be True or False'),
        (dict(share=0.4, cost=1.4), 'either share or cost'),
        (dict(size=160, share=1), '160 x 160 are larger than the images, 128 x 128'),
        (dict(size=48), 'whole cells of the coarsest stride, 32; take multiples of 32'),
        (dict(size=96, share=0.4), 'one window of 96 x 96 is 0.56 of an image of 128 x 128'),
    ],
)
def test_windows_that_do_not_fit_are_refused(where, message):
    with pytest.raises(MMDiscardError, match=message) as caught:
        attached(segmentor(**PYRAMID), where, size=(128, 128), self_test=False)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(search=dict(type='GreedySearch', budget=4)), 'GreedySearch chooses states by'),
        (
            dict(
                search=dict(
                    type='SpreadStates', budget=2, gate=dict(type='EntropyGate', threshold=0.1)
                )
            ),
            'without a gate',
        ),
        (
            dict(search=dict(type='SpreadStates', budget=dict(cost=1.4))),
            'the budget of the search counts states',
        ),
        (
            dict(aggregator=dict(type='AverageAggregator', on='features', align='bilinear')),
            'AverageAggregator of the config merges otherwise',
        ),
        (
            dict(search=dict(type='FixedStates', states=[[1], [2]])),
            'the default state is missing',
        ),
    ],
)
def test_settings_that_windows_do_not_go_with_are_refused(options, message):
    with pytest.raises(MMDiscardError, match=message):
        attached(segmentor(backbone=SMALL_D8), 'unsure', groups=[-1], self_test=False, **options)


def test_classifiers_are_refused():
    aggregator = dict(type='AverageAggregator', on='logits', align='none')
    with pytest.raises(MMDiscardError, match='is for segmentors'):
        attached(classifier(), 'unsure', aggregator=aggregator, size=(64, 64))
