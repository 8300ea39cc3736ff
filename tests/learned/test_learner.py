"""Training an aggregator leaves everything else alone."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import autocast
from mmpretrain.models import ResNet
from small_models import (
    SMALL_RESNET,
    assert_near,
    classifier,
    cls_samples,
    images,
    mit_segmentor,
    seg_samples,
    segmentor,
)

from mmdiscard.errors import MMDiscardError
from mmdiscard.learned import AggregatorLearner
from mmdiscard.learned.feature_cache import FeatureCache
from mmdiscard.learned.state_features import compute_state_features

SEARCH = dict(type='GreedySearch', budget=6, criterion=dict(type='RandomCriterion'))
ATTENTION = dict(type='AttentionAggregator')


def learner(model=None, aggregator=ATTENTION, **options):
    return AggregatorLearner(model or classifier(), aggregator, search=SEARCH, **options)


class SixChannelResNet(ResNet):
    """A ResNet behind a layer that makes three channels of six."""

    def __init__(self, **options):
        super().__init__(**options)
        self.front = torch.nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return super().forward(self.front(x))


CASES = [
    (classifier, ATTENTION, cls_samples),
    (classifier, ATTENTION | dict(on='logits', align='none'), cls_samples),
    (mit_segmentor, ATTENTION, seg_samples),
    (mit_segmentor, ATTENTION | dict(on='logits', align='exact'), seg_samples),
    (mit_segmentor, dict(type='PhaseAggregator'), seg_samples),
]


@pytest.mark.parametrize(('make', 'aggregator', 'samples'), CASES)
def test_gradients_reach_the_aggregator_alone_and_the_base_stays_as_it_is(
    make, aggregator, samples
):
    model = learner(make(), aggregator)
    before = {key: value.clone() for key, value in model.base.state_dict().items()}
    own = {id(parameter) for parameter in model.aggregator.parameters()}
    assert {id(parameter) for parameter in model.parameters()} == own
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    losses = []
    for _ in range(2):
        loss, _ = model.parse_losses(model.loss(images(4), samples(4)))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.base.parameters())
    assert not any(module.training for module in model.base.modules())
    after = model.base.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(('make', 'aggregator', 'samples'), CASES)
def test_mixed_precision_learns_much_the_same(make, aggregator, samples):
    model = learner(make(), aggregator).train()
    found = []
    for enabled in (False, True):
        with autocast(device_type='cpu', dtype=torch.bfloat16, enabled=enabled):
            loss, _ = model.parse_losses(model.loss(images(4), samples(4)))
        model.zero_grad()
        loss.backward()
        found.append((loss.item(), [parameter.grad for parameter in model.parameters()]))
    (exact, _), (mixed, gradients) = found
    assert mixed == pytest.approx(exact, rel=0.05) and mixed != exact
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_checkpoints_hold_the_aggregator_alone():
    names = learner().state_dict().keys()
    assert names and all(name.startswith('aggregator.') for name in names)


def test_the_loss_is_that_of_the_model_on_what_is_merged():
    """Untrained attention is the average, so the loss is that of averaged features."""
    model, x, samples = learner(), images(4), cls_samples(4)
    found = model.loss(x, samples)['loss']
    average = learner(aggregator=ATTENTION)
    average.ensemble.use(average.train_search)
    with torch.no_grad():
        logits = average.ensemble.predict(x)
    labels = torch.cat([sample.gt_label for sample in samples])
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, labels))


def test_the_loss_of_a_segmentor_leaves_its_auxiliary_head_out():
    auxiliary = ConfigDict(
        type='FCNHead', in_channels=16, in_index=2, channels=8, num_convs=1, num_classes=5
    )
    with_both = segmentor(auxiliary_head=auxiliary)
    model = learner(with_both, subsampling=dict(groups='all'))
    assert set(model.loss(images(2), seg_samples(2))) == {'decode.loss_ce', 'decode.acc_seg'}


def test_predictions_search_as_in_a_test():
    model = learner(test_search=dict(type='GreedySearch', budget=3))
    model.loss(images(2), cls_samples(2))
    assert model.ensemble.budget == 6
    predictions = model(images(2), cls_samples(2), mode='predict')
    assert model.ensemble.budget == 3 and len(predictions) == 2
    assert model(images(2)).shape == (2, 7)


def test_images_of_six_channels():
    base = classifier(backbone=SMALL_RESNET | dict(type=SixChannelResNet))
    model = learner(base, subsampling=dict(in_channels=6))
    x = torch.cat([images(2), images(2, seed=1)], 1)
    assert model.loss(x, cls_samples(2))['loss'].isfinite()
    assert model(x).shape == (2, 7)


def test_moving_the_learner_moves_the_base():
    model = learner().double()
    kinds = {p.dtype for p in [*model.parameters(), *model.base.parameters()]}
    assert kinds == {torch.float64}


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(MMDiscardError, match='nothing to train'):
        learner(aggregator=dict(type='AverageAggregator'))


@pytest.mark.parametrize(
    ('spoil', 'cause'),
    [
        (lambda model: model.aggregator['0'].scale.data.fill_(torch.nan), 'lower the lr'),
        (lambda model: model.base.backbone.conv1.weight.data.fill_(torch.inf), 'frozen model'),
        (lambda model: model.base.head.fc.bias.data.fill_(torch.nan), 'check the data'),
    ],
)
def test_a_loss_that_is_not_finite_stops_with_its_cause(spoil, cause):
    model = learner()
    spoil(model)
    with pytest.raises(MMDiscardError, match=cause):
        model.loss(images(2), cls_samples(2))


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / 'cache', 'key')


def test_cached_features_give_the_same_loss_bit_for_bit(cache):
    for make, aggregator, samples in CASES:
        plain, kept = learner(make(), aggregator), learner(make(), aggregator)
        kept.aggregator.load_state_dict(plain.aggregator.state_dict())
        cache.remove()
        kept.cache = cache
        expected, *found = (
            model.parse_losses(model.loss(images(3), samples(3)))[0]
            for model in (plain, kept, kept)
        )
        assert torch.equal(found[0], expected) and torch.equal(found[1], expected)
    assert cache.hits == 3 * len(CASES)


def test_images_with_different_numbers_of_states_are_cached_too(cache):
    model, x = learner(), images(3)
    with torch.no_grad():
        logits = model.ensemble.evaluate(x, torch.zeros(1, 3).long()).logits[:, 0]
    entropies = torch.special.entr(logits.softmax(1)).sum(1) / torch.tensor(7.0).log()
    gate = dict(type='EntropyGate', threshold=float(entropies.sort().values[:2].mean()))
    model = AggregatorLearner(classifier(), ATTENTION, search=SEARCH | dict(gate=gate), cache=cache)
    losses = [model.loss(x, cls_samples(3))['loss'] for _ in range(2)]
    assert cache.hits == 3 and torch.equal(*losses)
    assert sorted(cache.get(x).rows.images.bincount().tolist())[0] == 1


def test_features_of_mixed_precision_are_cached_as_they_are(cache):
    model, found = learner(mit_segmentor(), cache=cache), []
    with autocast(device_type='cpu', dtype=torch.bfloat16):
        for _ in range(2):
            found.append(model.parse_losses(model.loss(images(2), seg_samples(2)))[0])
    assert cache.hits == 2 and torch.equal(*found)
    kinds = {level.dtype for level in cache.get(images(2)).features}
    assert torch.bfloat16 in kinds


def test_the_cache_is_bounded_and_outlives_the_process(cache, tmp_path):
    model = learner(cache=cache)
    model.loss(images(3), cls_samples(3))
    content = 6 * 32 * 2 * 2 * 4  # bytes per image: states, channels, cells, float32
    assert 3 * content < cache.size < 3 * (content + 3000)
    again = FeatureCache(tmp_path / 'cache', 'key')
    assert torch.equal(again.get(images(3)).features[0], cache.get(images(3)).features[0])
    assert again.get(images(3, seed=1)) is None
    assert FeatureCache(tmp_path / 'cache', 'other key').get(images(3)) is None
    assert not list((tmp_path / 'cache').iterdir())  # those of another key are deleted
    small = FeatureCache(tmp_path / 'small', 'key', max_bytes=4 * cache.size // 3)
    model = learner(cache=small)
    for seed in (0, 1):
        model.loss(images(3, seed=seed), cls_samples(3))
    assert small.get(images(3)) is not None and small.get(images(3, seed=1)) is None
    sizes = [path.stat().st_size for path in (tmp_path / 'small').iterdir()]
    assert len(sizes) == 4 and sum(sizes) == small.size <= small.max_bytes
    small.remove()
    assert not (tmp_path / 'small').exists()


def test_a_cache_too_small_for_an_image_keeps_none(tmp_path):
    small = FeatureCache(tmp_path / 'small', 'key', max_bytes=10)
    model = learner(cache=small)
    for _ in range(2):
        model.loss(images(2), cls_samples(2))
    assert small.hits == 0


def test_states_are_kept_in_the_order_of_the_search():
    model, x = learner(), images(3)
    model.ensemble.use(model.train_search)
    found = compute_state_features(model.ensemble.pipeline, x, keep=[True])
    with torch.no_grad():
        model.ensemble.predict(x)
    states = found.rows.states.unflatten(0, (6, 3)).transpose(0, 1)
    assert torch.equal(states, model.ensemble.last.states)
    features = model.ensemble.evaluate(x, states).features[0]
    assert_near(found.features[0].unflatten(0, (6, 3)).transpose(0, 1), features, 1e-4)
