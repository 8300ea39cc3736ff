"""Mergers of views against brute force and against the official implementation."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmdiscard import MMDiscardError
from mmdiscard.tta import (
    AugTTAMerger,
    ClassTTAMerger,
    EntropyMerger,
    GPSMerger,
    MaxMerger,
    MeanMerger,
)
from mmdiscard.tta.fitted_mergers import MergerFile
from mmdiscard.tta.merger_parameters import FITS, fit_augtta, fit_classtta, fit_gps, fit_temperature

GOLDEN = np.load(Path(__file__).parents[1] / 'data' / 'tta_mergers.npz')
NAMES = tuple(f'view {i}' for i in range(12))


def golden(name):
    return torch.from_numpy(np.asarray(GOLDEN[name]))


def fitted(cls, names=NAMES, **parameters):
    return cls(MergerFile(cls.__name__, tuple(names), parameters))


def merged(merger):
    """The golden logits merged, ``(N, K)``: images are places."""
    return merger.merge(golden('logits').permute(1, 2, 0)).T


def assert_golden(found, name):
    expected = golden(name)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


# ------------------------------------------------------------------------- official implementation
def test_mean_and_maximum_are_the_official_ones():
    assert_golden(merged(MeanMerger(on='logits')), 'mean_out')
    assert_golden(merged(MaxMerger()), 'max_out')


def test_augtta_is_the_official_one():
    coefficients = golden('aug_coeffs')[:, 0].tolist()
    assert_golden(merged(fitted(AugTTAMerger, coefficients=coefficients)), 'aug_out')


def test_classtta_is_the_official_one():
    coefficients = golden('class_coeffs').tolist()
    assert_golden(merged(fitted(ClassTTAMerger, coefficients=coefficients)), 'class_out')


def test_gps_is_the_official_one():
    found = fit_gps(golden('logits'), golden('labels'), count=3)
    assert found['indices'] == golden('gps_indices').tolist()
    assert found['temperature'] == pytest.approx(golden('gps_temperature').item(), abs=1e-3)
    assert_golden(merged(fitted(GPSMerger, **found)), 'gps_out')


def test_one_image_at_a_time_is_all_at_once():
    merger = fitted(ClassTTAMerger, coefficients=golden('class_coeffs').tolist())
    one_by_one = torch.stack([merger.merge(views) for views in golden('logits')])
    torch.testing.assert_close(one_by_one, merged(merger))


# ------------------------------------------------------------------------------------- brute force
@pytest.mark.parametrize('shape', [(5,), (5, 3, 4)], ids=['classes', 'dense'])
def test_mean(shape):
    views = torch.rand(3, *shape).softmax(1)
    torch.testing.assert_close(MeanMerger().merge(iter(views)), views.mean(0))


@pytest.mark.parametrize('shape', [(5,), (5, 3, 4)], ids=['classes', 'dense'])
def test_entropy_weighs_views_place_by_place(shape):
    views = (torch.randn(3, *shape) * 3).softmax(1)
    weights = 1 - torch.special.entr(views.double()).sum(1, keepdim=True) / math.log(5)
    expected = (weights * views).sum(0) / weights.sum(0)
    torch.testing.assert_close(
        EntropyMerger().merge(iter(views)).double(), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize('shape', [(5,), (5, 3, 4)], ids=['classes', 'dense'])
def test_entropy_over_views_and_states_is_one_average_over_all_pairs(shape):
    logits = torch.randn(4, 6, *shape, dtype=torch.float64)  # views, states
    weights = torch.rand(4, 6, *shape[1:], dtype=torch.float64)
    share = weights.unsqueeze(2)
    expected = (share * logits).sum((0, 1)) / share.sum((0, 1))
    merging = EntropyMerger(on='logits').begin()
    for view in range(4):
        inside = (share[view] * logits[view]).sum(0) / share[view].sum(0)
        merging.add(view, inside, weights[view].sum(0))
    torch.testing.assert_close(merging.result(), expected)
    apart = EntropyMerger(on='logits', joint=False).begin()
    for view in range(4):
        apart.add(view, logits[view].mean(0), weights[view].sum(0))
    assert not torch.allclose(apart.result(), expected, rtol=1e-2)


def test_maximum_takes_the_surest_view_place_by_place():
    views = torch.randn(4, 5, 3, 4)
    surest = views.amax(1).argmax(0)
    expected = views.gather(0, surest.expand(1, 5, 3, 4))[0]
    assert torch.equal(MaxMerger().merge(views), expected)


def test_one_channel_is_a_binary_probability():
    views = torch.tensor([[[[0.5, 0.9]]], [[[0.99, 0.1]]]])
    merged = EntropyMerger().merge(iter(views))
    assert merged[0, 0, 0].item() == pytest.approx(0.99, abs=1e-4)  # 0.5 says nothing
    assert merged[0, 0, 1].item() == pytest.approx(0.5, abs=1e-6)
    views = torch.tensor([[[0.6]], [[0.05]]])
    assert MaxMerger(on='probabilities').merge(views).item() == pytest.approx(0.05)
    assert MaxMerger().merge(views.logit()).sigmoid().item() == pytest.approx(0.05)


def test_views_that_say_nothing_are_averaged():
    views = torch.full((2, 4), 0.25)
    assert torch.equal(EntropyMerger().merge(iter(views)), views[0])


# ------------------------------------------------------------------------------- order and streams
def all_mergers():
    generator = torch.Generator().manual_seed(3)
    return [
        MeanMerger(),
        MaxMerger(),
        EntropyMerger(),
        fitted(GPSMerger, indices=[2, 7, 4]),
        fitted(AugTTAMerger, coefficients=torch.rand(12, generator=generator).tolist()),
        fitted(ClassTTAMerger, coefficients=torch.rand(12, 10, generator=generator).tolist()),
    ]


@pytest.mark.parametrize('merger', all_mergers(), ids=lambda merger: type(merger).__name__)
def test_order_of_views_changes_nothing(merger):
    views = golden('logits').permute(1, 2, 0)
    if merger.on == 'probabilities':
        views = views.softmax(1)
    merger.prepare(NAMES)
    before = merger.merge(views)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1)).tolist()
    merger.prepare([NAMES[i] for i in order])
    after = merger.merge(views[order])
    merger.prepare(NAMES)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize('merger', all_mergers(), ids=lambda merger: type(merger).__name__)
def test_views_are_not_written_to(merger):
    views = golden('logits').permute(1, 2, 0).softmax(1).contiguous()
    kept = views.clone()
    first = merger.merge(views)
    assert torch.equal(views, kept)
    assert torch.equal(merger.merge(views), first)  # nothing is left over from the image before


def test_gps_asks_for_its_views_only():
    merger = fitted(GPSMerger, indices=[2, 7, 2])
    assert [view for view in range(12) if merger.uses(view)] == [2, 7]
    views = golden('logits')[0]
    torch.testing.assert_close(merger.merge(views), (2 * views[2] + views[7]) / 3)


# ---------------------------------------------------------------------------------------- fitting
def views_of_known_quality(count=600, classes=4):
    """Logits of three views: a good one, a poor one, and one that is wrong."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    right = F.one_hot(labels, classes).float()
    noise = torch.randn(count, 3, classes, generator=generator)
    scale = torch.tensor([2.0, 0.5, -1.0]).view(1, 3, 1)
    return scale * right.unsqueeze(1) + noise, labels


def test_weights_follow_the_quality_of_views():
    logits, labels = views_of_known_quality()
    weights = torch.tensor(fit_augtta(logits, labels)['coefficients'])
    assert weights[0] > 2 * weights[1:].max()
    assert (weights >= 0).all()
    by_class = torch.tensor(fit_classtta(logits, labels)['coefficients']).mean(1)
    assert by_class[0] > by_class[1] > by_class[2]
    chosen = fit_gps(logits, labels, count=2)['indices']
    assert chosen == [0, 1]
    assert fit_gps(logits, labels, count=2, likelihood=True)['indices'] == [0, 1]


def test_fitting_beats_the_plain_mean_on_other_images():
    logits, labels = views_of_known_quality()
    known, new = slice(0, 400), slice(400, 600)
    names = ('good', 'poor', 'wrong')
    mean = accuracy(MeanMerger(on='logits'), logits[new], labels[new])
    for cls in (GPSMerger, AugTTAMerger, ClassTTAMerger):
        options = {'count': 1} if cls is GPSMerger else {}
        parameters = FITS[cls.__name__](logits[known], labels[known], **options)
        assert accuracy(fitted(cls, names, **parameters), logits[new], labels[new]) > mean


def accuracy(merger, logits, labels):
    return (merger.merge(logits.permute(1, 2, 0)).argmax(0) == labels).float().mean().item()


@pytest.mark.parametrize('fit', [fit_augtta, fit_classtta])
def test_fitting_is_repeatable(fit):
    logits, labels = views_of_known_quality(100)
    assert fit(logits, labels, epochs=3) == fit(logits, labels, epochs=3)


def test_temperature_brings_likelihood_up():
    logits, labels = views_of_known_quality()
    sharp = 1.5 * logits[:, 0]
    temperature = fit_temperature(sharp, labels)
    assert temperature > 0  # the published steps alone end below 0 here
    assert F.cross_entropy(sharp / temperature, labels) < F.cross_entropy(sharp, labels)


@pytest.mark.parametrize('fit', FITS.values())
def test_nothing_is_fitted_to_broken_logits(fit):
    logits, labels = views_of_known_quality(50)
    logits[3, 1, 2] = math.nan
    with pytest.raises(MMDiscardError, match='NaN or infinite'):
        fit(logits, labels)
    with pytest.raises(MMDiscardError, match='4 labelled .* too few'):
        fit(logits[4:8], labels[4:8])


def test_gps_cannot_choose_more_views_than_there_are():
    with pytest.raises(MMDiscardError, match='cannot choose 4 of 3 views'):
        fit_gps(*views_of_known_quality(50), count=4)


# ------------------------------------------------------------------------------------------- files
def test_files_come_back(tmp_path):
    weights = torch.rand(12, 10).tolist()
    made = MergerFile('ClassTTAMerger', NAMES, dict(coefficients=weights), dict(images=5))
    made.save(tmp_path / 'new' / 'merger.json')
    assert MergerFile.load(tmp_path / 'new' / 'merger.json') == made
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['merger.json']
    merger = ClassTTAMerger(str(tmp_path / 'new' / 'merger.json'))
    assert torch.equal(merger.coefficients, torch.tensor(weights))


def test_files_of_earlier_versions_are_read(tmp_path):
    text = (
        '{"format": "mmdiscard merger", "version": 1, "merger": "GPSMerger", "views": ["a", "b"], '
        '"parameters": {"indices": [1], "temperature": 1.5}, "origin": {"images": 9}}'
    )
    (tmp_path / 'merger.json').write_text(text)
    merger = GPSMerger(str(tmp_path / 'merger.json'))
    assert [merger.uses(view) for view in range(2)] == [False, True]
    assert merger.file.origin == dict(images=9)


def broken_files():
    good = '{"format": "mmdiscard merger", "version": 1, "merger": "GPSMerger", '
    return {
        'nothing': ('', 'is damaged .not JSON.'),
        'other': ('[1, 2]', "holds 'something else', not 'mmdiscard merger'"),
        'old': (
            good.replace('1', '9') + '"views": []}',
            'version 9 of its format, this mmdiscard reads',
        ),
        'short': (good + '"views": ["a"]}', 'parameters'),
        'no views': (good + '"parameters": {}}', 'views'),
        'empty': (good + '"views": ["a"], "parameters": {}}', 'has no indices'),
        'no numbers': (
            good + '"views": ["a"], "parameters": {"indices": ["x"]}}',
            'parameters in the file are not valid',
        ),
        'beyond': (good + '"views": ["a"], "parameters": {"indices": [1]}}', 'not views of 1'),
    }


@pytest.mark.parametrize('text, message', broken_files().values(), ids=broken_files())
def test_broken_files_are_refused(text, message, tmp_path):
    (tmp_path / 'merger.json').write_text(text)
    with pytest.raises(MMDiscardError, match=message) as error:
        GPSMerger(tmp_path / 'merger.json')
    assert 'python -m mmdiscard.fit_tta' in str(error.value)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(
        MMDiscardError, match='cannot read .*merger.json: No such file.*python -m mmdiscard.fit_tta'
    ):
        AugTTAMerger(tmp_path / 'merger.json')


def test_files_of_other_mergers_are_refused():
    with pytest.raises(MMDiscardError, match='holds a GPSMerger, not a AugTTAMerger'):
        AugTTAMerger(MergerFile('GPSMerger', NAMES, dict(indices=[1])))


@pytest.mark.parametrize(
    'coefficients',
    [[1.0], [-1.0] + [1.0] * 11, [0.0] * 12, [math.nan] * 12, [[1.0]] * 12],
    ids=['too few', 'negative', 'all zero', 'not a number', 'per class'],
)
def test_impossible_coefficients_are_refused(coefficients):
    with pytest.raises(MMDiscardError, match='at least 0 and one for each of 12 views'):
        fitted(AugTTAMerger, coefficients=coefficients)


def test_other_views_are_refused():
    merger = fitted(GPSMerger, indices=[1])
    with pytest.raises(MMDiscardError, match='12 views, and tta_pipeline has 11; it misses view 9'):
        merger.prepare([name for name in NAMES if name != 'view 9'])
    with pytest.raises(MMDiscardError, match='knows nothing of new; it misses view 11; fit it'):
        merger.prepare([*NAMES[:-1], 'new'])


def test_other_classes_are_refused():
    merger = fitted(ClassTTAMerger, coefficients=golden('class_coeffs').tolist())
    with pytest.raises(MMDiscardError, match='fitted to 10 classes, and the model has 7'):
        merger.merge(torch.zeros(12, 7))


def test_settings_are_checked():
    with pytest.raises(MMDiscardError, match='one of probabilities, logits; got .scores.'):
        MeanMerger(on='scores')
    with pytest.raises(MMDiscardError, match='no view to merge'):
        MeanMerger().merge([])
    with pytest.raises(MMDiscardError, match='no view to merge'):
        MaxMerger().merge([])
