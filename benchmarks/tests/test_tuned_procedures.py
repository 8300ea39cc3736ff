"""Choices of the tool measured on other images, on images that can be counted by hand."""

import numpy as np
import pytest

from benchmarks.common.tuned_procedures import (
    ProcedureResults,
    choose_for,
    difference,
    is_single,
    measure_on_test,
    procedure_of,
)
from mmdiscard.tuning import Procedure
from mmdiscard.tuning.measures import TopOne


def results_of(*hits):
    """Two procedures and their hits on the same images."""
    measure = TopOne()
    statistics = np.zeros((len(hits[0]), 2, measure.length))
    statistics[:, :, 0] = np.transpose(hits)
    statistics[:, :, 1] = 1
    return ProcedureResults(['plain', 'other'], statistics, np.array([1.0, 2.0]), measure)


def test_a_difference_is_the_mean_over_trainings():
    first = results_of([1, 0, 0, 1], [1, 1, 0, 1])  # 50 and 75 %
    second = results_of([0, 0, 0, 0], [1, 1, 1, 1])
    mean, low, high = difference([first, second], ['other', 'other'], ['plain', 'plain'])
    assert mean == pytest.approx(62.5)
    assert 50 <= low < mean < high <= 100
    assert difference([first], ['other'], ['other']) == [0, 0, 0]
    assert first.metric('other') == 75
    assert first.cost('other') == 2


def test_single_procedures():
    states = '2 states of auto groups'
    single = [Procedure(), Procedure(flip=True), Procedure((1.0, 1.25)), Procedure(states=states)]
    assert all(map(is_single, single))
    assert not is_single(Procedure(flip=True, states=states))
    assert not is_single(Procedure((1.25,), states=states))


def test_procedures_give_on_the_same_images_what_the_tool_measured(demo_model, tmp_path):
    cfg, checkpoint = demo_model('classifier')
    cfg.pop('work_dir')
    path = tmp_path / 'own.py'
    path.write_text(cfg.pretty_text)
    argv = [str(path), checkpoint, '--images', '12', '--sizes', '--states', '2', '--groups', '-1']
    argv += ['--work-dir', str(tmp_path / 'out')]
    prefix = '{}_dataloader.dataset.data_prefix={}'.format
    swapped = ['--cfg-options', prefix('val', 'test'), prefix('test', 'val')]
    choice = choose_for([*argv, *swapped], 4)
    assert len(choice.rows) == 4
    found = measure_on_test(argv, list(map(procedure_of, choice.rows)), 12)
    for row in choice.rows:
        assert found.metric(row['name']) == pytest.approx(row['gain']['metric'])


def test_procedures_in_unsure_windows_are_measured(demo_model, tmp_path):
    cfg, checkpoint = demo_model('segmentor_stride8')
    path = tmp_path / 'own.py'
    path.write_text(cfg.pretty_text)
    argv = [str(path), checkpoint, '--work-dir', str(tmp_path / 'out')]
    states = '2 states in unsure windows'
    found = measure_on_test(argv, [Procedure(states=states)], 3)
    assert found.names == ['plain', states]
    assert len(found.statistics) == 3
