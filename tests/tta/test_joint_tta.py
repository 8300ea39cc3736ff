"""One cost for views and states, inside the TTA models."""

import pytest
import torch
from small_models import classifier, cls_samples, images, seg_samples, segmentor

import mmdiscard
from mmdiscard import MMDiscardError
from mmdiscard.tta import DiscardClsTTA, DiscardSegTTA
from mmdiscard.tta.fitted_mergers import MergerFile

GROUPS = dict(groups=[-2, -1])
AVERAGE = dict(type='AverageAggregator', on='logits')
ENTROPY = dict(type='EntropyAggregator', on='logits')
KINDS = {'classifier': (classifier, DiscardClsTTA), 'segmentor': (segmentor, DiscardSegTTA)}
FIELDS = {
    'classifier': lambda sample: sample.pred_score,
    'segmentor': lambda sample: sample.seg_logits.data,
}


def pixels(views=3, count=2):
    batch = (images(views * count) * 60 + 127).clamp(0, 255).byte()
    return [list(part) for part in batch.split(count)]


def batch(kind, views=3):
    turned = dict(flip=True, flip_direction='horizontal')
    make = {
        'classifier': lambda view: cls_samples(2),
        'segmentor': lambda view: seg_samples(2, **turned if view == 1 else {}),
    }[kind]
    return dict(inputs=pixels(views), data_samples=[make(view) for view in range(views)])


@torch.no_grad()
def predicted(kind, data, budget, aggregator=AVERAGE, **settings):
    """Merged predictions ``(N, ...)`` and the TTA model."""
    make, tta = KINDS[kind]
    model = make()
    if kind == 'classifier':
        model.head.fc.weight.data *= 0.05  # so that none is certain
    tta = tta(model, **settings)
    search = dict(type='GreedySearch', budget=budget)
    with mmdiscard.attach(tta, GROUPS, search, aggregator):
        samples = tta.test_step(data)
    return torch.stack([FIELDS[kind](sample) for sample in samples]), tta


@pytest.mark.parametrize('kind', KINDS)
def test_enough_for_everything_is_every_state_of_every_view(kind):
    everything, _ = predicted(kind, batch(kind), budget=16)
    found, tta = predicted(kind, batch(kind), budget=2, joint=dict(cost=1000.0))
    assert (tta.joint.last.states == 16).all()
    torch.testing.assert_close(found, everything)


@pytest.mark.parametrize('kind', KINDS)
def test_enough_for_one_forward_is_the_first_view(kind):
    first = {key: values[:1] for key, values in batch(kind).items()}
    plain, _ = predicted(kind, first, budget=1)
    found, tta = predicted(kind, batch(kind), budget=2, joint=dict(cost=1.0))
    torch.testing.assert_close(found, plain)
    assert tta.joint.last.states.tolist() == [[1, 0, 0]] * 2
    assert tta.joint.last.cost.tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize('aggregator', [AVERAGE, ENTROPY], ids=['average', 'entropy'])
@pytest.mark.parametrize('kind', KINDS)
def test_images_are_searched_on_their_own(kind, aggregator):
    data = batch(kind)
    merger = dict(type='EntropyMerger')
    settings = dict(budget=4, aggregator=aggregator, joint=dict(cost=2.6), merger=merger)
    found, tta = predicted(kind, data, **settings)
    assert (tta.joint.last.cost <= 2.6 + 1e-6).all()
    assert (tta.joint.last.states.sum(1) > 1).all()
    for image in range(2):
        data = batch(kind)
        alone = {key: [view[image : image + 1] for view in v] for key, v in data.items()}
        own, _ = predicted(kind, alone, **settings)
        torch.testing.assert_close(own[0], found[image], rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(joint=dict(states=4)), 'joint takes a cost, such as dict.cost=4.0.'),
        (dict(joint=4.0), 'joint takes a cost, such as dict.cost=4.0.; got 4.0'),
        (dict(joint=dict(cost=0.5)), 'at least 1, got 0.5'),
        (dict(joint=dict(price=2)), 'budget takes'),
        (
            dict(
                joint=dict(cost=2.0),
                merger=dict(type='GPSMerger', file=MergerFile('GPSMerger', 'ab', {'indices': [0]})),
            ),
            'GPSMerger was fitted to all of them',
        ),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(MMDiscardError, match=message):
        DiscardClsTTA(classifier(), **settings)


def test_views_that_cannot_be_post_processed_are_named():
    data = batch('segmentor')
    for sample in data['data_samples'][1]:
        sample.set_metainfo(dict(flip_direction='diagonal'))
    with pytest.raises(MMDiscardError, match="cannot predict the view 'view 1 diagonal flip'"):
        predicted('segmentor', data, budget=2, joint=dict(cost=1000.0))


def test_models_that_cannot_be_searched_so_are_refused():
    joint = dict(cost=2.0)
    with pytest.raises(MMDiscardError, match='no states are searched'):
        DiscardClsTTA(classifier(), joint=joint).test_step(batch('classifier'))
    tta = DiscardClsTTA(classifier(), joint=joint)
    message = pytest.raises(MMDiscardError, match='needs a GreedySearch')
    with mmdiscard.attach(tta, GROUPS, dict(type='SpreadStates', budget=2)), message:
        tta.test_step(batch('classifier'))
    slide = dict(mode='slide', crop_size=(48, 48), stride=(32, 32))
    tta = DiscardSegTTA(segmentor(test_cfg=slide), joint=joint)
    message = pytest.raises(MMDiscardError, match="whole images, .* is 'slide'")
    with mmdiscard.attach(tta, GROUPS, dict(type='GreedySearch', budget=2)), message:
        tta.test_step(batch('segmentor'))
