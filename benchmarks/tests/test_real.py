"""The statistics of the real models, on cases that can be counted by hand; and, where the data is,
one row of each table again.

The latter need MMDISCARD_REAL_DATA: a folder with `imagenet_val1300/` and the prepared `data/` and
`work_dirs/real/` of benchmarks.real in the current folder.
"""

import os
from pathlib import Path

import mmcv
import numpy as np
import pytest
import timm
import torch

from benchmarks.common.files import read_results
from benchmarks.real import classifier_report, prepare_camvid, segmentor_report
from benchmarks.real.classifiers import displaced
from benchmarks.real.convert_weights import timm_names
from benchmarks.real.segmentor_atoms import moved
from benchmarks.real.segmentors import Statistics, merged, places, procedures, tile_masks
from benchmarks.real.windows_picture import BROKEN, MENDED, OTHER, UNCHANGED, boxes_in, changes

DATA = os.environ.get('MMDISCARD_REAL_DATA')


def logits_of(labels: torch.Tensor, scale: float = 4.0) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).float() * scale


def test_statistics_count_pixels():
    labels = torch.tensor([[0, 1], [2, 9]])  # 9 is no class: ignored
    plain = logits_of(torch.tensor([[0, 0], [0, 0]])).softmax(0)
    better = logits_of(torch.tensor([[1, 1], [2, 0]])).softmax(0)
    found = Statistics(labels, plain).of(better)
    assert (found['mended'], found['broken']) == (2, 1)
    assert found['confusion'].tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]
    sure = better.max().log()
    wrong = better.min().log()
    assert found['nll'] == pytest.approx(float(-(2 * sure + wrong)), rel=1e-6)
    # All confidences are in one bin: two of three are right.
    assert found['gap'].sum() == pytest.approx(float(2 - 3 * better.max()), rel=1e-6)


def test_tiles_take_the_procedure_where_the_plain_model_is_unsure():
    labels = torch.zeros(60, 120, dtype=torch.long)
    plain = torch.full((3, 60, 120), 1 / 3)
    plain[:, :, 60:] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]  # sure, and wrong
    right = logits_of(labels).softmax(0)
    statistics = Statistics(labels, plain)
    masks = tile_masks(statistics.entropy)
    half = statistics.in_tiles(right.argmax(0), masks)[0, 4]  # one of two tiles
    assert half[0].tolist() == [3600, 3600, 0]


def test_pixels_are_placed_by_the_size_of_their_object_and_the_distance_to_its_edge():
    labels = torch.zeros(60, 60, dtype=torch.long)
    labels[20:24, 20:24] = 1
    found = places(labels, 2)
    assert found[21, 21] == 0  # an object of 16 pixels, 1 px from the next label
    assert found[24, 22] == 2 * 3 and found[27, 22] == 2 * 3 + 1  # of 3,584; 1 and 4 px
    assert found[50, 50] == 2 * 3 + 2


def test_gain_by_place_counts_pixels_that_become_right():
    labels = torch.zeros(60, 60, dtype=torch.long)
    plain = logits_of(torch.ones_like(labels)).softmax(0)
    before = Statistics(labels, plain).by_place(torch.ones_like(labels))
    after = Statistics(labels, plain).by_place(labels)
    assert before[1].sum() == 0 and after[1].sum() == after[0].sum() == 3600


def test_procedures_average_logits_in_a_view_and_probabilities_between_views():
    atoms = {name: torch.randn(3, 2, 2) for name in ('plain', 'plain group 1 state 3', 'flip')}
    both = (atoms['plain'] + atoms['plain group 1 state 3']) / 2
    expected = (both.softmax(0) + atoms['flip'].softmax(0)) / 2
    result = merged(atoms, [('plain', 'plain group 1 state 3'), ('flip',)])
    torch.testing.assert_close(result, expected)
    named = procedures(auto=1, groups=[0, 1])
    assert named['2 states'] == [('plain', 'plain group 1 state 3')]
    assert len(named['three sizes and flip, 2 states each']) == 6


def test_moving_there_and_back_keeps_the_inside():
    image = torch.randn(1, 2, 8, 9)
    there = moved(image, -2, -1)
    assert torch.equal(there[..., :6, :8], image[..., 2:, 1:])
    assert torch.equal(moved(there, 2, 1)[..., 2:, 1:], image[..., 2:, 1:])
    assert torch.equal(displaced(image, 2), moved(image, -2, -2))


def test_miou_is_the_mean_over_classes():
    perfect = np.eye(3) * 10
    assert segmentor_report.miou(perfect) == 100
    assert segmentor_report.miou(np.array([[1, 1], [0, 2]])) == pytest.approx(
        100 * (1 / 2 + 2 / 3) / 2
    )


def test_calibration_error_of_two_bins():
    confidence = np.array([0.95, 0.95, 0.5, 0.5])
    right = np.array([1.0, 0.0, 1.0, 0.0])
    assert classifier_report.calibration_error(confidence, right) == pytest.approx(100 * 0.9 / 4)


def test_weights_have_to_fit():
    names = timm.create_model('tf_efficientnet_lite0').state_dict()
    with pytest.raises(ValueError, match='is not conv_stem.weight'):
        timm_names({name: torch.zeros(1) for name in names}, 'efficientnet_lite0')


@pytest.mark.parametrize('layout', ['images/{}|labels/{}', '{}|{}annot'])
def test_camvid_is_prepared_from_both_layouts(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(prepare_camvid, 'SPLITS', {'val': 1})
    label = np.array([[0, 11]], dtype=np.uint8)
    for folder, content in zip(
        layout.split('|'), (np.full((1, 2, 3), 7, np.uint8), label), strict=True
    ):
        mmcv.imwrite(content, str(tmp_path / folder.format('val') / 'a.png'))
    assert prepare_camvid.main([str(tmp_path), '--out', str(tmp_path / 'out')]) == 0
    found = mmcv.imread(str(tmp_path / 'out/labels/val/a.png'), flag='unchanged')
    assert np.array_equal(found, label)
    monkeypatch.setattr(prepare_camvid, 'SPLITS', {'val': 2})
    assert prepare_camvid.main([str(tmp_path), '--out', str(tmp_path / 'out')]) == 1


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason='MMDISCARD_REAL_DATA names no folder with the real images')
def test_a_row_of_the_classifiers_again(tmp_path, monkeypatch):
    from benchmarks.real import classifiers

    monkeypatch.setattr(classifiers, 'LOGITS', tmp_path)
    classifiers.run(Path(DATA) / 'imagenet_val1300', 'efficientnet_lite0', 160, 'none', None)
    again = classifier_report.Logits(tmp_path / 'efficientnet_lite0_160_none.npz').rows()
    recorded = read_results(classifier_report.JSON)['efficientnet_lite0_160_none']['rows']
    for row, before in zip(again, recorded, strict=True):
        assert abs(row.gain[0] - before['gain'][0]) <= max(before['gain'][1], 1e-9)


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason='MMDISCARD_REAL_DATA names no folder with the real images')
@pytest.mark.parametrize('model', list(read_results(segmentor_report.JSON)))
def test_a_row_of_the_segmentors_again(model, monkeypatch, tmp_path):
    from benchmarks.real import segmentors

    monkeypatch.setattr(segmentors, 'OUT', tmp_path)
    checkpoint = Path('benchmarks/real/checkpoints') / f'{model}-seed0.pth'
    config = Path('configs/camvid') / f'{model}.py'
    assert segmentors.main([str(config), str(checkpoint), '--step', '8']) == 0
    again = segmentor_report.Trainings(list(tmp_path.glob('*.npz'))).rows()
    recorded = read_results(segmentor_report.JSON)[model]['rows']
    for row, before in zip(again, recorded, strict=True):
        low, high = before['gain'][1:]
        assert low - (high - low) <= row['gain'][0] <= high + (high - low)


def test_a_picture_of_what_changed():
    truth = np.array([[0, 1, 2, 255]])
    picture = changes(truth, np.array([[1, 1, 0, 0]]), np.array([[0, 2, 1, 1]]))
    assert [tuple(pixel) for pixel in picture[0].tolist()] == [MENDED, BROKEN, OTHER, UNCHANGED]
    assert boxes_in([[16, 32, 64, 96]], (128, 128), (64, 256)) == [(64, 8, 192, 32)]
