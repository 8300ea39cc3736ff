"""Learned attention inside real models."""

import pytest
import torch
from small_models import assert_near, classifier, images, mit_segmentor, segmentor

from mmdiscard import attach
from mmdiscard.errors import MMDiscardError
from mmdiscard.learned import AttentionAggregator, StateAttention
from mmdiscard.learned.learned_aggregator import ENTRY, PREFIX
from mmdiscard.learned.state_buffer import Layout

SEARCH = dict(type='GreedySearch', budget=6)
LEARNED = dict(type='AttentionAggregator')


def random_parameters(ensemble):
    """Parameters as if they had been trained, so that states count differently."""
    generator = torch.Generator().manual_seed(1)
    for parameter in ensemble.aggregator.module.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return ensemble


def predict(model, aggregator, search=SEARCH, trained=False, **options):
    with (
        torch.no_grad(),
        attach(model, search=search, aggregator=aggregator, **options) as ensemble,
    ):
        if trained:
            random_parameters(ensemble)
        return ensemble.predict(images(3)), ensemble


def all_states(ensemble, image, states):
    """Aligned features ``(1, P, C, h, w)`` of one image, and positions ``(1, P, 2)``."""
    features = torch.cat(
        [e.aligned[0] for state in states for e in ensemble.explore(image, state[None])]
    )
    # In pixels, over the stride of the first searched group's input.
    return features[None], ensemble.space.displacement(states)[None] // 2


@pytest.mark.parametrize(
    ('make', 'options'),
    [
        (classifier, dict(on='features', align='bilinear')),
        (classifier, dict(on='logits', align='none')),
        (mit_segmentor, dict(on='features', align='bilinear')),
        (mit_segmentor, dict(on='logits', align='exact')),
    ],
)
def test_untrained_it_is_the_average(make, options):
    model = make()
    average, _ = predict(model, dict(type='AverageAggregator', **options))
    learned, _ = predict(model, dict(type='AttentionAggregator', **options))
    trained, _ = predict(model, dict(type='AttentionAggregator', **options), trained=True)
    assert_near(learned, average, 1e-5)
    assert (trained - average).abs().max() > 1e-2 * average.abs().max()


def test_one_state_alone_is_bitwise_the_plain_model_however_trained():
    model = classifier()
    plain, _ = predict(model, dict(type='AverageAggregator'), dict(type='GreedySearch', budget=1))
    alone, _ = predict(model, LEARNED, dict(type='GreedySearch', budget=1), trained=True)
    assert torch.equal(alone, plain)


def test_it_equals_the_module_on_all_states_of_an_image_at_once():
    model, x = classifier(), images(3)
    with torch.no_grad(), attach(model, search=SEARCH, aggregator=LEARNED) as ensemble:
        random_parameters(ensemble)
        found = ensemble.predict(x)
        for image, states in enumerate(ensemble.last.states):
            aligned = [e.aligned[0] for e in ensemble.explore(x[image : image + 1], states)]
            order = torch.cat(
                [e.rows.states for e in ensemble.explore(x[image : image + 1], states)]
            )
            # In pixels, over the stride of the first searched group's input.
            place = ensemble.space.displacement(order) // 2
            merged = ensemble.aggregator.module['0'](torch.cat(aligned)[None], place[None])
            logits = ensemble.adapter.head((merged,), x[image : image + 1], None)
            assert_near(found[image : image + 1], logits, 1e-4)


def test_images_with_fewer_states_are_merged_as_if_alone():
    model, x = classifier(), images(3)
    with torch.no_grad(), attach(model, search=SEARCH, aggregator=LEARNED) as ensemble:
        entropy = ensemble.evaluate(x, torch.zeros(1, 3).long()).logits[:, 0].softmax(1)
        entropy = torch.special.entr(entropy).sum(1) / torch.tensor(7.0).log()
    threshold = float(entropy.sort().values[:2].mean())  # one image is confident
    gated = SEARCH | dict(gate=dict(type='EntropyGate', threshold=threshold))
    with torch.no_grad(), attach(model, search=gated, aggregator=LEARNED) as ensemble:
        together = random_parameters(ensemble).predict(x)
        counts = ensemble.last.counts
        alone = torch.cat([ensemble.predict(image[None]) for image in x])
    assert sorted(counts.tolist())[0] == 1 and counts.max() == 6
    assert_near(together, alone, 1e-4)


def test_only_levels_that_the_head_reads_have_parameters():
    _, fcn = predict(segmentor(), LEARNED, subsampling=dict(groups='all'))
    _, segformer = predict(mit_segmentor(), LEARNED)
    assert list(fcn.aggregator.module) == ['3']
    assert list(segformer.aggregator.module) == ['0', '1', '2', '3']


def test_any_budget_without_preparing_again():
    model = classifier()
    aggregator = AttentionAggregator()
    with attach(model, search=SEARCH, aggregator=aggregator) as ensemble:
        random_parameters(ensemble)
    before = {key: value.clone() for key, value in aggregator.module.state_dict().items()}
    for budget in (1, 4, 10, 30):
        logits, _ = predict(model, aggregator, dict(type='GreedySearch', budget=budget))
        assert logits.isfinite().all()
    after = aggregator.module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_the_criterion_is_attention_among_the_states_so_far():
    search = SEARCH | dict(criterion=dict(type='AttentionCriterion'))
    model, x = classifier(), images(2)
    with torch.no_grad(), attach(model, search=search, aggregator=LEARNED) as ensemble:
        random_parameters(ensemble).predict(x)
        states, scores = ensemble.last.states[0], ensemble.last.scores[0]
        assert scores[0] == 1
        known = states[:4]  # the root and its children
        module = ensemble.aggregator.module['0']
        expected = 1 / (4 * module.received(*all_states(ensemble, x[:1], known))[0])
        torch.testing.assert_close(scores[1:4], expected[1:], atol=1e-4, rtol=1e-4)


def test_the_reverse_criterion_and_the_one_for_training():
    def scores(**options):
        criterion = dict(type='AttentionCriterion', **options)
        with (
            torch.no_grad(),
            attach(
                classifier(), search=SEARCH | dict(criterion=criterion), aggregator=LEARNED
            ) as ensemble,
        ):
            random_parameters(ensemble).predict(images(2))
            return ensemble.last.scores[:, 1:4]

    forward, backward = scores(), scores(reverse=True)
    torch.testing.assert_close(forward, 1 / backward)
    shares = scores(random=True, seed=3) / forward
    assert shares.min() >= 0 and shares.max() < 1 and shares.std() > 0.05
    torch.testing.assert_close(scores(random=True, seed=3), shares * forward)
    assert not torch.equal(scores(random=True, seed=4), shares * forward)


def test_settings_that_do_not_fit_are_refused_at_start_up():
    attention = SEARCH | dict(criterion=dict(type='AttentionCriterion'))
    with pytest.raises(MMDiscardError, match='AverageAggregator has none'):
        attach(classifier(), search=attention, aggregator=dict(type='AverageAggregator'))
    with pytest.raises(MMDiscardError, match='train with num_positions=8'):
        attach(classifier(), search=SEARCH, aggregator=LEARNED | dict(num_positions=7))
    with pytest.raises(MMDiscardError, match='at least 1'):
        AttentionAggregator(num_positions=0)
    with pytest.raises(MMDiscardError, match="needs on='logits'"):
        AttentionAggregator(align='exact')
    with pytest.raises(MMDiscardError, match='init_cfg of an aggregator'):
        AttentionAggregator(init_cfg='weights.pth')


def test_a_refused_model_is_left_as_it_was():
    model = classifier()
    with pytest.raises(MMDiscardError):
        attach(model, search=SEARCH, aggregator=LEARNED | dict(num_positions=2))
    predict(model, LEARNED)  # not attached


@pytest.fixture
def saved(tmp_path):
    """A file with trained parameters of the small classifier, and what they predict."""
    model = classifier()
    with torch.no_grad(), attach(model, search=SEARCH, aggregator=LEARNED) as ensemble:
        expected = random_parameters(ensemble).predict(images(3))
        aggregator = ensemble.aggregator
    state = {PREFIX + key: value for key, value in aggregator.module.state_dict().items()}
    path = tmp_path / 'aggregator.pth'
    torch.save({'state_dict': state, ENTRY: aggregator.entry()}, path)
    return path, expected


def pretrained(path, **options):
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    return dict(type='AttentionAggregator', init_cfg=init_cfg, **options)


def test_what_was_saved_is_loaded(saved):
    path, expected = saved
    found, _ = predict(classifier(), pretrained(path))
    assert torch.equal(found, expected)
    assert path.stat().st_size < 20_000


def test_files_that_do_not_fit_are_refused_with_the_reason(saved, tmp_path):
    path, _ = saved

    def refused(match, model=None, aggregator=None, **options):
        with pytest.raises(MMDiscardError, match=match):
            attach(model or classifier(), search=SEARCH, aggregator=aggregator, **options)

    wide = dict(type='ResNet', depth=18, stem_channels=8, base_channels=8)
    refused('feature channels', classifier(backbone=wide, channels=64), pretrained(path))
    every = dict(subsampling=dict(groups='all'))
    refused('made for 3 groups', None, pretrained(path), **every)
    refused('for the model ImageClassifier', segmentor(), pretrained(path), **every)
    refused(r"on='features'.*on='logits'", None, pretrained(path, on='logits', align='none'))
    refused('size mismatch', None, pretrained(path, num_positions=32))
    refused('train it first', None, pretrained(tmp_path / 'absent.pth'))
    (tmp_path / 'text.pth').write_text('no weights')
    refused('not a checkpoint', None, pretrained(tmp_path / 'text.pth'))
    torch.save(classifier().state_dict(), tmp_path / 'model.pth')
    refused('no learned aggregator', None, pretrained(tmp_path / 'model.pth'))


def test_layout_of_uneven_rows():
    images_of_rows = torch.tensor([0, 1, 2, 0, 2, 0])
    states = torch.arange(6)[:, None]
    layout = Layout(images_of_rows, states, 3)
    assert layout.counts.tolist() == [3, 1, 2]
    assert layout.present.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert layout.states[0].flatten().tolist() == [0, 3, 5]
    assert layout.states[2, :2].flatten().tolist() == [2, 4]
    values = layout.by_image(torch.arange(6.0))
    assert layout.by_row(values).tolist() == [0, 1, 2, 3, 4, 5]
    assert layout.first.tolist() == [0, 1, 2]


def test_attention_is_a_plain_module():
    assert sum(p.numel() for p in StateAttention(512, 8).parameters()) < 6_000
