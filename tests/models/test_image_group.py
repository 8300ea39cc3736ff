"""The image as a group, and the settings that `attach` takes where nothing is set."""

import pytest
import torch
from small_models import (
    UNET,
    assert_near,
    classifier,
    images,
    mit_segmentor,
    seg_samples,
    segmentor,
)
from test_self_test import SecondEncoder, Siamese, of_class, predicted
from torch import nn
from torch.nn import functional as F

import mmdiscard
from mmdiscard import MMDiscardError

FCN_OF_UNET = dict(type='FCNHead', in_channels=4, in_index=2, channels=4, num_convs=1)
FCN_OF_UNET |= dict(num_classes=5, norm_cfg=dict(type='BN'), concat_input=False)
MEAN = dict(type='AverageAggregator', on='logits', align='none')
EXACT = dict(type='AverageAggregator', on='logits', align='exact')
FOUR = dict(type='SpreadStates', budget=4)


def unet() -> nn.Module:
    return segmentor(backbone=UNET, head=FCN_OF_UNET)


def displaced(x: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    return F.pad(x[..., dy:, dx:], (0, dx, 0, dy), mode='replicate')


def moved_back(maps: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    height, width = maps.shape[2:]
    return F.pad(maps, (dx, 0, dy, 0), mode='replicate')[..., :height, :width]


@pytest.mark.parametrize('make', [unet, lambda: of_class(Siamese, segmentor)])
def test_a_segmentor_is_called_on_displaced_images_and_moved_back(make):
    model, x = make(), images(2, (64, 96))
    metas = [sample.metainfo for sample in seg_samples(2, (64, 96))]
    with torch.no_grad():
        shifts = [(0, 0), (0, 4), (4, 0), (4, 4)]
        maps = [moved_back(model.encode_decode(displaced(x, *s), metas), *s) for s in shifts]
    settings = dict(subsampling=dict(groups=[dict(image=4)]), search=FOUR, aggregator=EXACT)
    with mmdiscard.attach(model, **settings) as ensemble:
        assert_near(ensemble.predict(x, metas), torch.stack(maps).mean(0))
        assert ensemble.last.cost == pytest.approx(4)


def test_a_classifier_is_called_on_displaced_images():
    model, x = classifier(), images(2)
    with torch.no_grad():
        scores = [model(displaced(x, *s), mode='tensor') for s in ((0, 0), (2, 2))]
    settings = dict(
        subsampling=dict(groups=['image']),
        search=dict(type='SpreadStates', budget=2),
        aggregator=MEAN,
    )
    with mmdiscard.attach(model, **settings) as ensemble:
        assert_near(ensemble.predict(x), sum(scores) / 2)


def test_the_image_and_a_group_of_the_backbone():
    model, x = segmentor(), images(2)
    single = dict(search=FOUR, aggregator=EXACT)
    state = torch.tensor([[3]])
    with mmdiscard.attach(model, dict(groups=[-1]), **single) as ensemble:
        expected = ensemble.evaluate(displaced(x, 2, 2), state).logits[:, 0]
    with mmdiscard.attach(model, dict(groups=[-1, dict(image=2)]), **single) as ensemble:
        assert [group.name for group in ensemble.groups] == ['image', 'layer2.0']
        found = ensemble.evaluate(x, torch.tensor([[3, 3]])).logits[:, 0]
        explored = torch.empty_like(found)
        for part in ensemble.explore(x, torch.tensor([[0, 0], [0, 3], [3, 0], [3, 3]])):
            last = (part.rows.states == 3).all(1)
            explored[part.rows.images[last]] = part.logits[last]
    assert_near(found, expected)
    assert_near(explored, expected)


@pytest.mark.parametrize('make', [unet, classifier, segmentor])
def test_one_state_is_the_plain_model(make):
    model, x = make(), images(2)
    plain = predicted(model, x)
    one = dict(type='SpreadStates', budget=1)
    with mmdiscard.attach(model, dict(groups=['image']), search=one, aggregator=MEAN):
        assert torch.equal(predicted(model, x), plain)
    assert torch.equal(predicted(model, x), plain)


@pytest.mark.parametrize(
    ('make', 'name', 'align'),
    [
        (segmentor, 'layer2.0', 'ExactAlignment'),
        (mit_segmentor, 'layers.0.0.projection', 'ExactAlignment'),
        (classifier, 'layer3.0', 'NoAlignment'),
        (unet, 'image', 'ExactAlignment'),
        (lambda: of_class(Siamese, segmentor), 'image', 'ExactAlignment'),
        (
            lambda: of_class(SecondEncoder, segmentor, other=nn.Conv2d(3, 5, 3, padding=1)),
            'image',
            'ExactAlignment',
        ),
    ],
    ids=['stride 8', 'pyramid', 'classifier', 'unet', 'Siamese', 'second encoder'],
)
def test_nothing_has_to_be_set(make, name, align):
    with mmdiscard.attach(make()) as ensemble:
        assert [group.name for group in ensemble.groups] == [name]
        assert ensemble.budget == 2
        assert type(ensemble.aggregator.alignment).__name__ == align


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(search=dict(type='SpreadStates', budget=9)), 'of the searched groups .layer2.0.'),
        (dict(subsampling=dict(groups='auto', in_channels=5)), 'cannot be traced .* 5 channels'),
        (dict(aggregator=dict(type='AverageAggregator', on='nose')), 'unknown `on`'),
    ],
    ids=['budget', 'channels', 'aggregator'],
)
def test_the_image_is_no_way_around_wrong_settings(settings, message):
    settings = dict(subsampling=dict(groups='auto')) | settings
    with pytest.raises(MMDiscardError, match=message):
        mmdiscard.attach(segmentor(), **settings)


@pytest.mark.parametrize('make', [unet, classifier])
def test_nothing_else_has_to_be_set_for_the_image(make):
    with mmdiscard.attach(make(), dict(groups=['image'])) as ensemble:
        assert ensemble.budget == 2
    four = dict(type='SpreadStates', budget=4)
    with mmdiscard.attach(make(), dict(groups=['image']), four) as ensemble:
        assert ensemble.budget == 4


def test_settings_of_before_keep_their_defaults():
    with mmdiscard.attach(classifier(), search=dict(type='GreedySearch', budget=3)) as ensemble:
        assert type(ensemble.aggregator).__name__ == 'EntropyAggregator'
        assert len(ensemble.groups) == 3


def test_the_image_is_listed_when_asked_for():
    model = segmentor()
    assert 'image' not in [group.name for group in mmdiscard.find_subsampling(model)]
    image, _ = mmdiscard.find_subsampling(model, groups=['image', -1])
    assert (image.name, image.stride, image.levels) == ('image', (2, 2), (0, 1, 2, 3))
    assert mmdiscard.translation_oracle(model, [image])[0].ratio < 0.1


@pytest.mark.parametrize(
    ('groups', 'aggregator', 'message'),
    [
        ([dict(image=0)], EXACT, 'whole pixels, at least 1'),
        (['image', dict(image=2)], EXACT, 'has the image twice'),
        (['image'], dict(type='AverageAggregator', on='features', align='none'), "on='logits'"),
    ],
)
def test_what_cannot_be_is_refused(groups, aggregator, message):
    with pytest.raises(MMDiscardError, match=message):
        mmdiscard.attach(segmentor(), dict(groups=groups), FOUR, aggregator)
