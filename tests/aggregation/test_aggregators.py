import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import assert_near

from mmdiscard import MMDiscardError
from mmdiscard.aggregation import (
    AverageAggregator,
    EntropyAggregator,
    Geometry,
    RowOutputs,
    RunningMean,
    normalized_entropy,
)
from mmdiscard.aggregation.alignment import translate
from mmdiscard.execution import BackboneOutputs
from mmdiscard.registry import AGGREGATORS, build
from mmdiscard.search import Rows
from mmdiscard.subsampling import StateSpace, SubsamplingGroup

IMAGES, STATES = 2, 5


def weighted_mean(values, weights):
    """The whole formula at once, in float64: ``(P, N, C, ...)``, weights that broadcast to it."""
    weights = weights.double()
    return ((weights * values.double()).sum(0) / weights.sum(0)).float()


def run(values, weights, order=None):
    mean = RunningMean(IMAGES)
    for state in order or range(len(values)):
        mean.add(torch.arange(IMAGES), values[state], weights[state])
    return mean.value


@pytest.mark.parametrize('per_pixel', [False, True], ids=['scalar', 'per pixel'])
@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(STATES)), seed=st.integers(0, 999))
def test_running_mean_equals_the_formula_in_any_order(per_pixel, order, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(STATES, IMAGES, 3, 4, 5, generator=generator)
    shape = (STATES, IMAGES, 4, 5) if per_pixel else (STATES, IMAGES)
    weights = torch.rand(shape, generator=generator) + 1e-3
    full = weights.unsqueeze(2) if per_pixel else weights[..., None, None, None]
    assert_near(run(values, weights, order), weighted_mean(values, full))


@pytest.mark.parametrize('per_pixel', [False, True], ids=['scalar', 'per pixel'])
@pytest.mark.parametrize('images', [[0, 1], [1]], ids=['all', 'some'])
@pytest.mark.parametrize('first', [0, 1], ids=['from the first', 'later'])
def test_moved_values_are_mixed_as_if_moved_before(per_pixel, images, first):
    values = torch.randn(4, len(images), 3, 5, 6)
    weights = torch.rand((4, len(images), *((5, 6) if per_pixel else ()))) + 0.1
    shifts = torch.randint(-7, 8, (4, len(images), 2))
    shifts[:first] = 0
    found, expected = RunningMean(IMAGES), RunningMean(IMAGES)
    for value, weight, shift in zip(values, weights, shifts, strict=True):
        found.add(torch.tensor(images), value, weight, shift)
        moved = translate(weight[:, None], shift)[:, 0] if per_pixel else weight
        expected.add(torch.tensor(images), translate(value, shift), moved)
    assert_near(found.value, expected.value)


def test_what_others_hold_is_never_written_to():
    values, weights = torch.randn(3, IMAGES, 2, 4, 4), torch.ones(3, IMAGES)
    copies = values.clone()
    mean = RunningMean(IMAGES)
    for value, weight in zip(values, weights, strict=True):
        mean.add(torch.arange(IMAGES), value, weight, torch.tensor([[0, 0], [1, 0]]))
    assert torch.equal(values, copies)


def test_the_first_value_is_kept_bit_for_bit():
    value = torch.randn(1, IMAGES, 3, 4, 5)
    assert torch.equal(run(value, torch.rand(1, IMAGES) * 0.1), value[0])


def test_images_come_apart_and_out_of_step():
    values, weights = torch.randn(3, 4), torch.tensor([1.0, 2.0, 3.0])
    mean = RunningMean(2)
    mean.add(torch.tensor([1]), values[:1], weights[:1])
    mean.add(torch.tensor([0, 1]), values[1:], weights[1:])
    assert torch.equal(mean.value[0], values[1])
    torch.testing.assert_close(mean.value[1], (values[0] + 3 * values[2]) / 4)


# ------------------------------------------------------------------------------------- aggregators
SPACE = StateSpace([SubsamplingGroup('a', (), (2, 2), (4, 4), levels=(0,))])


def outputs_of(aggregator, logits):
    """``(P, N, K, ...)`` logits as parts in which images come more than once."""
    for part in (slice(0, 2), slice(2, STATES)):
        chunk = logits[part].flatten(0, 1)
        rows = Rows(
            torch.arange(IMAGES).repeat(len(logits[part])), torch.zeros(len(chunk), 1).long()
        )
        computed = BackboneOutputs(
            rows, torch.zeros(len(chunk), 3, 8, 8), (torch.zeros(len(chunk), 1, 1, 1),)
        )
        yield RowOutputs(
            computed,
            lambda levels, _, chunk=chunk: chunk,
            Geometry(SPACE, [(8, 8)]),
            aggregator.alignment,
            aggregator.stage.head_input,
        )


def merged(aggregator, logits):
    merge = aggregator.merge(IMAGES, budget=STATES)
    for outputs in outputs_of(aggregator, logits):
        merge.add(outputs)
    return merge.result()[0]


@pytest.mark.parametrize('shape', [(6,), (6, 4, 5)], ids=['classes', 'dense'])
def test_average_is_the_mean_over_states(shape):
    logits = torch.randn(STATES, IMAGES, *shape)
    assert_near(merged(AverageAggregator(on='logits'), logits), logits.mean(0))


@pytest.mark.parametrize('shape', [(6,), (6, 4, 5)], ids=['classes', 'dense'])
def test_entropy_weights_are_normalised_over_states_at_every_place(shape):
    logits = torch.randn(STATES, IMAGES, *shape) * 3
    entropy = normalized_entropy(logits.flatten(0, 1)).unflatten(0, (STATES, IMAGES))
    expected = weighted_mean(logits, (1 - entropy).unsqueeze(2))
    assert_near(merged(EntropyAggregator(on='logits'), logits), expected)
    assert not torch.allclose(expected, logits.mean(0), rtol=1e-2)


def test_states_without_any_confidence_are_averaged():
    logits = torch.ones(STATES, IMAGES, 6) * torch.arange(5.0).view(5, 1, 1)
    assert_near(merged(EntropyAggregator(on='logits'), logits), torch.full((IMAGES, 6), 2.0))


@pytest.mark.parametrize(
    'config, words',
    [
        (dict(type='Sum'), "unknown aggregator 'Sum'; choose one of .*AverageAggregator"),
        (dict(type='AverageAggregator', on='pixels'), "'pixels'; choose one of features, logits"),
        (
            dict(type='AverageAggregator', align='best'),
            "'best'; choose one of bilinear, exact, none",
        ),
        (dict(type='AverageAggregator', align='exact'), "needs on='logits', got on='features'"),
        (dict(type='AverageAggregator', allign='none'), 'AverageAggregator: .*allign'),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, words):
    with pytest.raises(MMDiscardError, match=words):
        build(AGGREGATORS, config)


def test_moving_outputs_needs_outputs_that_are_maps():
    aggregator = AverageAggregator(on='logits', align='exact')
    aggregator.check(dense=True)
    with pytest.raises(MMDiscardError, match="align='bilinear' or align='none'"):
        aggregator.check(dense=False)
