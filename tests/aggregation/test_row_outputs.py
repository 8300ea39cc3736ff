import math

import pytest
import torch
from small_models import assert_near

from mmdiscard.aggregation import FeatureStage, Geometry, LogitStage, RowOutputs, normalized_entropy
from mmdiscard.aggregation.alignment import BilinearAlignment, ExactAlignment, NoAlignment
from mmdiscard.aggregation.row_outputs import probability_margin
from mmdiscard.execution import BackboneOutputs
from mmdiscard.search import Rows
from mmdiscard.subsampling import StateSpace, SubsamplingGroup

SPACE = StateSpace([SubsamplingGroup('a', (), (2, 2), (4, 4), levels=(0,))])


def reference_entropy(logits):
    logits = logits.double()
    p = logits.softmax(1)
    return torch.special.entr(p).sum(1) / math.log(logits.shape[1])


@pytest.mark.parametrize('shape', [(3, 10), (2, 5, 4, 3)])
@pytest.mark.parametrize('scale', [1.0, 100.0])
def test_entropy_equals_a_float64_reference(shape, scale):
    logits = torch.randn(shape) * scale
    found = normalized_entropy(logits)
    torch.testing.assert_close(found.double(), reference_entropy(logits), rtol=1e-4, atol=1e-6)


def test_entropy_runs_from_zero_to_one():
    certain, uniform = torch.tensor([[1e4, 0.0, 0.0]]), torch.zeros(1, 3)
    assert normalized_entropy(certain).item() == 0
    assert normalized_entropy(uniform).item() == pytest.approx(1, abs=1e-6)


def test_independent_classes_have_the_mean_of_binary_entropies_and_margins():
    logits = torch.tensor([[0.0, 40.0, -40.0], [1.0, -2.0, 0.5]])
    p = logits.double().sigmoid()
    expected = (torch.special.entr(p) + torch.special.entr(1 - p)).mean(1) / math.log(2)
    found = normalized_entropy(logits, independent=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert found[0].item() == pytest.approx(1 / 3, abs=1e-6)
    margin = probability_margin(logits, independent=True)
    torch.testing.assert_close(margin.double(), (2 * p - 1).abs().mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('function', [normalized_entropy, probability_margin])
def test_maps_are_worked_on_in_parts(function, monkeypatch):
    logits = torch.randn(2, 5, 7, 3)
    whole = function(logits)
    monkeypatch.setattr('mmdiscard.aggregation.row_outputs.PART', 2 * 5 * 3 * 2)  # two rows
    assert_near(function(logits), whole)


def test_margin_is_the_lead_of_the_first_class():
    logits = torch.randn(4, 6, 2, 2)
    first, second = logits.softmax(1).topk(2, dim=1).values.unbind(1)
    assert_near(probability_margin(logits), first - second)


def test_one_channel_is_a_binary_decision():
    logit = torch.randn(2, 1, 3, 3)
    two = torch.cat([logit, torch.zeros_like(logit)], 1)
    assert torch.equal(normalized_entropy(logit), normalized_entropy(two))


def outputs(alignment, space, head, size=(32, 48)):
    rows = Rows(torch.arange(2), torch.tensor([[0], [3]]))
    computed = BackboneOutputs(rows, torch.zeros(2, 3, *size), (torch.randn(2, 6, 4, 6),))
    geometry = Geometry(SPACE, [(8, 8)])
    return RowOutputs(computed, head, geometry, alignment, space.head_input)


def test_feature_space_scores_what_lies_and_merges_what_is_aligned():
    of = outputs(BilinearAlignment(), FeatureStage(), lambda levels, _: levels[0].mean((2, 3)))
    assert torch.equal(of.logits, of.computed.features[0].mean((2, 3)))
    (merged,) = FeatureStage().values(of)
    assert torch.equal(merged[0], of.computed.features[0][0])
    assert not torch.allclose(merged[1], of.computed.features[0][1])


def test_logit_space_reads_aligned_features():
    of = outputs(BilinearAlignment(), LogitStage(), lambda levels, _: levels[0].mean((2, 3)))
    assert torch.equal(of.logits, of.aligned[0].mean((2, 3)))
    assert_near(LogitStage().entropy(of), reference_entropy(of.logits).float())


@pytest.mark.parametrize('out, moved', [((32, 48), (4, 4)), ((16, 24), (2, 2)), ((8, 24), (1, 2))])
def test_output_moves_by_the_displacement_in_its_own_pixels(out, moved):
    logits = torch.randn(2, 6, *out)
    of = outputs(ExactAlignment(), LogitStage(), lambda levels, _: logits)
    assert of.shift.tolist() == [[0, 0], list(moved)]
    assert torch.equal(of.output[0], logits[0])
    assert torch.equal(
        of.output[1, :, moved[0] :, moved[1] :], logits[1, :, : -moved[0], : -moved[1]]
    )


def test_entropy_of_dense_rows_is_the_mean_over_pixels():
    logits = torch.randn(2, 6, 4, 6)
    of = outputs(NoAlignment(), FeatureStage(), lambda levels, _: logits)
    assert_near(of.entropy, reference_entropy(logits).mean((1, 2)).float())
