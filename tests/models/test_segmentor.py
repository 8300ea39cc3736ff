from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import MMSegInferencer, inference_model, init_model
from small_models import (
    FCN_HEAD,
    OCR_HEAD,
    SEGFORMER_HEAD,
    SMALL_MIT,
    SMALL_RESNET,
    assert_near,
    classifier,
    images,
    randomize,
    seg_samples,
    segmentor,
    segmentor_config,
)

import mmdiscard
from mmdiscard.subsampling import StateHooks

SIZE = (64, 80)
GREEDY = dict(type='GreedySearch', budget=5)
SLIDE = dict(mode='slide', crop_size=(48, 48), stride=(32, 32))
BINARY = dict(num_classes=2, out_channels=1, threshold=0.3)
MODELS = {
    'whole': dict(),
    'align_corners': dict(head=FCN_HEAD | dict(align_corners=True)),
    'slide': dict(test_cfg=SLIDE),
    'slide, align_corners': dict(head=FCN_HEAD | dict(align_corners=True), test_cfg=SLIDE),
    'binary': dict(head=FCN_HEAD | BINARY),
    'MiT': dict(backbone=SMALL_MIT, head=SEGFORMER_HEAD),
    'cascade': dict(
        type='mmseg.CascadeEncoderDecoder',
        num_stages=2,
        head=[FCN_HEAD, OCR_HEAD | dict(align_corners=True)],
    ),
    'cascade, slide': dict(
        type='mmseg.CascadeEncoderDecoder', num_stages=2, head=[FCN_HEAD, OCR_HEAD], test_cfg=SLIDE
    ),
}
AGGREGATORS = [
    dict(type='AverageAggregator', on='logits', align='exact'),
    dict(type='EntropyAggregator', on='logits', align='none'),
    dict(type='AverageAggregator', on='features', align='bilinear'),
    dict(type='EntropyAggregator', on='features', align='none'),
]


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request):
    return segmentor(**request.param)


@torch.no_grad()
def predicted(model, count=2, **meta):
    samples = model.predict(images(count, SIZE), seg_samples(count, SIZE, **meta))
    logits = torch.stack([sample.seg_logits.data for sample in samples])
    return logits, torch.stack([sample.pred_sem_seg.data for sample in samples])


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_budget_one_and_detached_are_bitwise_the_plain_model(model):
    flipped = dict(flip=True, flip_direction='horizontal', ori_shape=(70, 90))
    plain, turned = predicted(model), predicted(model, **flipped)
    for aggregator in AGGREGATORS:
        with mmdiscard.attach(
            model, search=dict(type='GreedySearch', budget=1), aggregator=aggregator
        ):
            assert same(predicted(model), plain)
            assert same(predicted(model, **flipped), turned)
        with mmdiscard.attach(
            model, search=dict(type='GreedySearch', budget=2), aggregator=aggregator
        ):
            assert not same(predicted(model), plain)
        assert same(predicted(model), plain)


@torch.no_grad()
def inferred(model):
    return model.inference(images(2, SIZE), [sample.metainfo for sample in seg_samples(2, SIZE)])


@pytest.mark.parametrize('max_rows', [None, 1, 3])
def test_states_are_averaged_in_whatever_mode_the_model_infers(model, max_rows):
    states = [[0, 0, 0], [15, 3, 1], [2, 0, 3]]
    deep = dict(groups=[0, 1, 2])
    if model.backbone.__class__.__name__ != 'MixVisionTransformer':
        states[1][0] = 3
    search = dict(type='FixedStates', states=states)
    aggregator = dict(type='AverageAggregator', on='logits', align='none')
    with mmdiscard.attach(model, deep, search, aggregator, max_rows) as ensemble:
        found, groups = inferred(model), ensemble.groups
    hooks, each = StateHooks(model.backbone, groups), []
    for state in states:
        with hooks.select(torch.tensor([state] * 2)):
            each.append(inferred(model))
    hooks.remove()
    # Attention of random weights magnifies what the batch size changes in the plain model, too.
    assert_near(found, torch.stack(each).mean(0), 1e-3)
    assert not torch.allclose(found, each[0], rtol=1e-2)


def test_windows_of_slide_inference_search_for_themselves():
    model, found = segmentor(test_cfg=SLIDE), []
    with mmdiscard.attach(model, search=dict(type='GreedySearch', budget=3)) as ensemble:
        ensemble.listeners.append(found.append)
        predicted(model)
    assert len(found) == 2 * 2  # windows at rows 0, 16 and columns 0, 32
    assert all(result.states.shape == (2, 3, 1) for result in found)


def test_images_of_a_batch_go_their_own_ways_as_if_alone():
    model, batch = segmentor(), images(4, SIZE, seed=1)
    search = dict(type='GreedySearch', budget=8)
    with mmdiscard.attach(model, dict(groups='all'), search) as ensemble, torch.no_grad():
        together, states = ensemble.predict(batch), ensemble.last.states
        for image in range(4):
            alone = ensemble.predict(batch[image : image + 1])
            assert torch.equal(ensemble.last.states[0], states[image])
            assert_near(together[image : image + 1], alone)
    assert len({str(state.tolist()) for state in states}) > 1


@pytest.mark.parametrize(
    'build, divisor',
    [
        (segmentor, 8),
        (partial(segmentor, **MODELS['MiT']), 32),
        (partial(segmentor, backbone=SMALL_RESNET), 32),
        (partial(segmentor, **MODELS['align_corners']), 1),
        (classifier, 1),
    ],
)
def test_the_coarsest_stride_says_which_sizes_fit(build, divisor):
    with mmdiscard.attach(build(), dict(groups='all'), GREEDY) as ensemble:
        assert ensemble.divisor == (divisor, divisor)


@pytest.mark.parametrize('settings', [dict(search=GREEDY), dict(where='unsure')])
def test_gradients_may_be_on(settings):
    with mmdiscard.attach(segmentor(), dict(groups='all'), **settings) as ensemble:
        found = ensemble.predict(images(1, SIZE))
        with torch.no_grad():
            assert torch.equal(found, ensemble.predict(images(1, SIZE)))
        assert found.requires_grad
        assert ensemble.last.size == SIZE


def test_evaluate_gives_levels_and_dense_logits():
    model = segmentor(backbone=SMALL_MIT, head=SEGFORMER_HEAD)
    with mmdiscard.attach(model, dict(groups='inner')) as ensemble:
        outputs = ensemble.evaluate(images(2), torch.tensor([[0, 0], [1, 2], [3, 0]]))
    assert [tuple(level.shape) for level in outputs.features] == [
        (2, 3, 8, 16, 16),
        (2, 3, 8, 8, 8),
        (2, 3, 16, 4, 4),
        (2, 3, 16, 2, 2),
    ]
    assert outputs.logits.shape == (2, 3, 5, 64, 64)


# --------------------------------------------------------------------------------- through the APIs
def api_config(**kwargs):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    dataset = dict(type='CityscapesDataset', pipeline=pipeline)
    model = segmentor_config(type='EncoderDecoder', **kwargs)
    return Config(
        dict(
            model=model,
            default_scope='mmseg',
            test_dataloader=dict(dataset=dataset),
            test_pipeline=pipeline,
            visualizer=dict(type='SegLocalVisualizer', vis_backends=[], name='none'),
        )
    )


@pytest.fixture
def picture():
    return np.random.RandomState(0).randint(0, 256, (*SIZE, 3), dtype=np.uint8)


def check_attaching_through(holder, asked):
    """``holder`` is what a user has in hand; ``asked()`` gives its answer as an array."""
    plain = asked()
    with mmdiscard.attach(holder, search=dict(type='SpreadStates', budget=1)):
        assert np.array_equal(asked(), plain)
    search = dict(type='SpreadStates', budget=4)
    with mmdiscard.attach(holder, dict(groups=['layer2.0']), search) as ensemble:
        assert not np.array_equal(asked(), plain)
        assert ensemble.last.states.tolist() == [[[0], [3], [1], [2]]]
    assert np.array_equal(asked(), plain)


def test_through_init_model_and_inference_model(picture):
    model = randomize(init_model(api_config(), device='cpu'))
    check_attaching_through(model, lambda: inference_model(model, picture).seg_logits.data.numpy())


def test_through_the_inferencer_of_mmseg(picture):
    inferencer = MMSegInferencer(api_config(), device='cpu')
    randomize(inferencer.model)
    check_attaching_through(inferencer, lambda: inferencer(picture)['predictions'])


@pytest.mark.parametrize('aggregator', AGGREGATORS, ids=str)
def test_mixed_precision_merges_what_it_computes(model, aggregator):
    with (
        mmdiscard.attach(
            model,
            subsampling=dict(groups='all'),
            search=dict(type='SpreadStates', budget=3),
            aggregator=aggregator,
        ),
        torch.no_grad(),
        torch.autocast('cpu', torch.bfloat16),
    ):
        found = model.predict(images(1, SIZE))[0].seg_logits.data
    assert found.isfinite().all()
