import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.apis import ImageClassificationInferencer
from mmpretrain.registry import MODELS
from recipes import arr, recipe_state_dict
from small_models import (
    SMALL_CONVNEXT,
    SMALL_RESNET,
    SMALL_SWIN,
    assert_near,
    classifier,
    classifier_config,
    cls_samples,
    images,
    randomize,
)

import mmdiscard

GOLDEN = np.load(Path(__file__).parents[1] / 'data' / 'resnet18.npz')
STATES = GOLDEN['states'].tolist()


def golden(name):
    return torch.from_numpy(GOLDEN[name])


# ------------------------------------------------------------------------------------ golden data
@pytest.fixture(scope='module')
def resnet18():
    config = classifier_config(dict(type='ResNet', depth=18), channels=512, num_classes=1000)
    model = MODELS.build(config)
    model.load_state_dict(recipe_state_dict(model))
    model.eval()
    return model


@pytest.fixture(scope='module')
def image():
    return torch.from_numpy(arr('image', (3, 3, 96, 128)))


@torch.no_grad()
def merged(model, inputs, **aggregator):
    with mmdiscard.attach(
        model, search=dict(type='FixedStates', states=STATES), aggregator=aggregator
    ) as ensemble:
        return ensemble.predict(inputs)


@torch.no_grad()
def test_golden_states(resnet18, image):
    with mmdiscard.attach(resnet18, dict(groups='inner')) as ensemble:
        assert [group.name for group in ensemble.groups] == ['maxpool', 'layer2.0', 'layer3.0']
        outputs = ensemble.evaluate(image, golden('states'))
    assert_near(outputs.features[0], golden('feats'))
    assert_near(outputs.logits, golden('logits'))
    assert_near(resnet18(image, mode='tensor'), golden('base_logits'))


def test_golden_alignment(resnet18):
    with mmdiscard.attach(
        resnet18, aggregator=dict(type='AverageAggregator', align='bilinear')
    ) as ensemble:
        feats, states = golden('feats').flatten(0, 1), golden('states').repeat(3, 1)
        (aligned,) = ensemble.aggregator.alignment.features((feats,), states, ensemble.geometry)
    assert_near(aligned, golden('aligned').flatten(0, 1))


@pytest.mark.parametrize(
    'on, align, name',
    [
        ('features', 'bilinear', 'agg_average_logits'),
        ('features', 'none', 'agg_average_unaligned_logits'),
        ('logits', 'none', 'agg_average_unaligned_logits'),  # the head is linear
    ],
)
def test_golden_averages(resnet18, image, on, align, name):
    found = merged(resnet18, image, type='AverageAggregator', on=on, align=align)
    assert_near(found, golden(name))


def test_golden_entropy_is_nan_in_the_official_implementation():
    """It computes ``p * log(p)``, so any probability that is 0 in float32 makes it NaN."""
    assert golden('normalized_entropy').isnan().all()
    assert golden('agg_entropy_logits').isnan().all()


def test_entropy_weights_equal_a_float64_reference(resnet18, image):
    model = copy.deepcopy(resnet18)
    for parameter in model.head.parameters():
        parameter.data *= 0.1  # the recipe's head is so certain that all weights are the same
    probabilities = (golden('logits').double() * 0.1).softmax(-1)
    weights = 1 - torch.special.entr(probabilities).sum(-1) / np.log(1000)
    assert (weights.amax(1) > 1.1 * weights.amin(1)).all()
    weights = (weights / weights.sum(1, keepdim=True)).view(3, 9, 1, 1, 1)
    features = (weights * golden('aligned').double()).sum(1).mean((2, 3))
    expected = features @ model.head.fc.weight.double().T + model.head.fc.bias.double()
    found = merged(model, image, type='EntropyAggregator', on='features', align='bilinear')
    assert_near(found, expected.float().detach())


# --------------------------------------------------------------------------------- bit for bit
BACKBONES = {
    'ResNet': dict(backbone=SMALL_RESNET, channels=32),
    'Swin': dict(backbone=SMALL_SWIN, channels=64),
    'ConvNeXt': dict(backbone=SMALL_CONVNEXT, channels=8, neck=None),
}
AGGREGATORS = [
    dict(type=f'{name}Aggregator', on=on, align=align)
    for name in ('Average', 'Entropy')
    for on in ('features', 'logits')
    for align in ('none', 'bilinear')
]


def scores(model, batch):
    with torch.no_grad():
        return torch.stack([s.pred_score for s in model.predict(batch, cls_samples(len(batch)))])


@pytest.mark.parametrize('config', BACKBONES.values(), ids=BACKBONES)
def test_budget_one_and_detached_are_bitwise_the_plain_model(config):
    model, batch = classifier(**config), images(3)
    plain = scores(model, batch)
    for aggregator in AGGREGATORS:
        for budget in (1, 3):
            search = dict(type='GreedySearch', budget=budget)
            with mmdiscard.attach(model, dict(groups='all'), search, aggregator):
                assert torch.equal(scores(model, batch), plain) == (budget == 1)
            assert torch.equal(scores(model, batch), plain)


def test_the_head_does_what_it_does_with_logits():
    model = classifier()
    with mmdiscard.attach(model, search=dict(type='SpreadStates', budget=4)) as ensemble:
        (sample,) = model.predict(images(1), cls_samples(1))
        with torch.no_grad():
            logits = ensemble.predict(images(1))
    torch.testing.assert_close(sample.pred_score, logits[0].softmax(0))
    assert sample.pred_label.item() == logits.argmax().item()
    assert sample.gt_label.item() == 0


# ------------------------------------------------------------------------------ search per image
SEARCHES = {
    'entropy': dict(type='GreedySearch', budget=6),
    'random': dict(type='GreedySearch', budget=6, criterion=dict(type='RandomCriterion', seed=3)),
}


@pytest.mark.parametrize('max_rows', [None, 2])
@pytest.mark.parametrize('search', SEARCHES.values(), ids=SEARCHES)
def test_images_of_a_batch_go_their_own_ways_as_if_alone(search, max_rows):
    model, batch = classifier(), images(4, seed=1)
    with mmdiscard.attach(model, dict(groups='all'), search, max_rows=max_rows) as ensemble:
        together = scores(model, batch)
        states = ensemble.last.states
        for image in range(len(batch)):
            alone = scores(model, batch[image : image + 1])
            assert torch.equal(ensemble.last.states[0], states[image])
            assert_near(together[image : image + 1], alone)
    assert len({str(state.tolist()) for state in states}) > 1


def test_what_was_searched_is_published():
    model, heard = classifier(), []
    with mmdiscard.attach(model, search=SEARCHES['entropy']) as ensemble:
        ensemble.listeners.append(heard.append)
        assert ensemble.budget == 6
        scores(model, images(2))
        last = ensemble.last
    assert heard == [last]
    assert last.states.shape == (2, 6, 3) and last.scores.shape == (2, 6)
    assert 1 < last.bound <= last.cost + 1e-6 < 6
    assert not last.states[:, 0].any()
    assert ((last.scores >= 0) & (last.scores <= 1)).all()


def test_scores_are_the_entropy_of_the_states_found():
    model, batch = classifier(), images(2)
    with mmdiscard.attach(model, search=SEARCHES['entropy']) as ensemble:
        scores(model, batch)
        logits = ensemble.evaluate(batch, ensemble.last.states).logits
        expected = torch.special.entr(logits.softmax(-1)).sum(-1) / np.log(7)
        torch.testing.assert_close(ensemble.last.scores, expected, rtol=1e-4, atol=1e-5)


def test_near_and_far_displacements_are_taken_first_when_asked():
    model = classifier()
    first = {}
    for largest in (False, True):
        criterion = dict(type='DisplacementCriterion', largest=largest)
        search = dict(type='GreedySearch', budget=7, criterion=criterion)
        with mmdiscard.attach(model, search=search) as ensemble:
            scores(model, images(1))
            first[largest] = ensemble.last.states[0, 4].tolist()
    # The root's children first; then near: the root's next group, far: that of index 3.
    assert first == {False: [0, 1, 0], True: [3, 1, 0]}


@pytest.mark.parametrize('per_image', [False, True])
def test_evaluate_takes_states_for_all_or_for_each_image(per_image):
    model, batch = classifier(), images(2)
    states = torch.tensor([[[0, 0, 0], [1, 2, 3]], [[3, 0, 1], [0, 0, 0]]])
    asked = states if per_image else states[0]
    with mmdiscard.attach(model, dict(groups='inner')) as ensemble:
        outputs = ensemble.evaluate(batch, asked)
        assert outputs.features[0].shape == (2, 2, 32, 2, 2) and outputs.logits.shape == (2, 2, 7)
        for image in range(2):
            for place in range(2):
                state = states[image if per_image else 0, place].view(1, 1, 3)
                alone = ensemble.evaluate(batch[image : image + 1], state)
                assert_near(outputs.logits[image, place], alone.logits[0, 0])
                assert_near(outputs.features[0][image, place], alone.features[0][0, 0])
        with pytest.raises(mmdiscard.MMDiscardError, match='maxpool'):
            ensemble.evaluate(batch, torch.tensor([[4, 0, 0]]))


# --------------------------------------------------------------------------------------- inferencer
def test_through_the_inferencer_of_mmpretrain():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    config = Config(
        dict(
            model=classifier_config(),
            default_scope='mmpretrain',
            test_dataloader=dict(dataset=dict(type='CustomDataset', pipeline=pipeline)),
        )
    )
    inferencer = ImageClassificationInferencer(config, pretrained=False, device='cpu')
    randomize(inferencer.model)
    pictures = list(np.random.RandomState(0).randint(0, 256, (2, 64, 64, 3), dtype=np.uint8))

    def asked():
        results = inferencer(pictures, batch_size=2)
        return np.stack([result['pred_scores'] for result in results])

    plain = asked()
    with mmdiscard.attach(inferencer, search=dict(type='GreedySearch', budget=1)):
        assert np.array_equal(asked(), plain)
    with mmdiscard.attach(inferencer, search=dict(type='GreedySearch', budget=4)) as ensemble:
        assert not np.array_equal(asked(), plain)
        assert ensemble.last.states.shape == (2, 4, 3)
    assert np.array_equal(asked(), plain)


def test_a_gate_leaves_confident_images_plain():
    model, batch = classifier(), images(6)
    plain = scores(model, batch)
    entropy = torch.special.entr(plain).sum(-1) / np.log(7)
    threshold = float(entropy.sort().values[2:4].mean())
    gate = dict(type='EntropyGate', threshold=threshold)
    groups = dict(groups='all')
    for search in (
        dict(type='SpreadStates', budget=4, gate=gate),
        dict(type='GreedySearch', budget=4, gate=dict(type='MarginGate', threshold=1.0)),
    ):
        with mmdiscard.attach(model, subsampling=groups, search=search) as ensemble:
            merged = scores(model, batch)
            last = ensemble.last
        stopped = last.counts == 1
        if search['type'] == 'SpreadStates':
            assert torch.equal(stopped, entropy <= threshold) and 0 < stopped.sum() < 6
            torch.testing.assert_close(merged[stopped], plain[stopped], rtol=1e-5, atol=1e-6)
            assert (last.states[stopped, 1:] == -1).all() and (last.states[~stopped] >= 0).all()
        else:
            assert not stopped.any()
        assert last.bound <= last.cost + 1e-6 < 4.001


@pytest.mark.parametrize('order', ['shallow_first', 'deep_first'])
def test_a_cost_budget_is_what_is_spent(order):
    model, batch = classifier(), images(3)
    search = dict(type='GreedySearch', budget=dict(cost=2.0), order=order)
    with mmdiscard.attach(model, subsampling=dict(groups='all'), search=search) as ensemble:
        scores(model, batch)
        last, prices = ensemble.last, ensemble.prices
    assert 1 < last.bound <= last.cost + 1e-6 <= 2 + 1e-5
    assert last.bound + max(map(prices.branch, range(5))) > 2
    assert (last.counts > 1).all()
