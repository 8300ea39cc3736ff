"""`python -m mmdiscard.export`: a file that a runtime reads, checked before it is written."""

from pathlib import Path

import pytest
import torch
from integration.layouts import write_checkpoint
from mmengine.config import Config
from small_models import images

from mmdiscard import export as tool
from mmdiscard.errors import MMDiscardError
from mmdiscard.graphs.graph_check import check_difference, largest_difference
from mmdiscard.graphs.graph_formats import Onnx

ROOT = Path(__file__).parents[2]
CONFIG = """
_base_ = '{root}/configs/demo/segmentor_stride8_spread-b4.py'
model = dict(
    backbone=dict(stem_channels=4, base_channels=4), decode_head=dict(in_channels=16, channels=8))
"""


@pytest.fixture
def command(tmp_path):
    """Config, checkpoint and output file of a small segmentor."""
    config, weights = tmp_path / 'config.py', tmp_path / 'weights.pth'
    config.write_text(CONFIG.format(root=ROOT))
    write_checkpoint(Config.fromfile(config), weights)
    out = tmp_path / 'model.onnx'
    return [str(config), str(weights), '--out', str(out), '--work-dir', str(tmp_path / 'work')], out


def test_onnx_of_a_segmentor_gives_labels_of_raw_images(command, capsys):
    pytest.importorskip('onnxruntime', reason='the extra `export` is not installed')
    arguments, out = command
    two = ['--cfg-options', 'custom_hooks.0.search.budget=2']
    tool.main([*arguments, '--size', '32', '48', '--normalise', '--labels', *two])
    assert 'merged        2' in capsys.readouterr().out
    labels = Onnx().load(out)(images(3, (32, 48)).abs() * 50)
    assert labels.shape == (3, 32, 48) and labels.dtype == torch.int64 and labels.max() > 0


def test_a_search_of_each_image_is_refused_and_nothing_is_written(command):
    pytest.importorskip('onnxruntime', reason='the extra `export` is not installed')
    arguments, out = command
    greedy = ['custom_hooks.0.search.type=GreedySearch']
    with pytest.raises(MMDiscardError, match='GreedySearch cannot be exported'):
        tool.main([*arguments, '--cfg-options', *greedy])
    assert not out.exists()


# ----------------------------------------------------------------------------------------- check
LOGITS = torch.tensor([[1.0, 4.0, 2.0], [3.0, 2.9999, 0.0]])


@pytest.mark.parametrize(
    ('found', 'labels', 'expected'),
    [
        (LOGITS + 0.4, False, 0.1),
        (torch.tensor([1, 0]), True, 0.0),
        (torch.tensor([1, 1]), True, 0.0001 / 4),
        (torch.tensor([2, 0]), True, 0.5),
    ],
)
def test_difference_in_units_of_the_largest_logit(found, labels, expected):
    assert largest_difference(found, LOGITS, labels) == pytest.approx(expected, abs=1e-6)


def test_labels_of_a_binary_decision_are_compared_by_their_logits():
    logits = torch.tensor([-1.0, 0.5, 1.0, 2.0]).view(1, 1, 2, 2)
    right, wrong = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert largest_difference(right.view(1, 2, 2), logits, True) == 0
    assert largest_difference(wrong.view(1, 2, 2), logits, True) == pytest.approx(0.25)


@pytest.mark.parametrize('difference', [0.01, float('nan')])
def test_a_graph_that_is_off_is_refused(difference):
    with pytest.raises(MMDiscardError, match='the graph is off by'):
        check_difference(difference, images(1))


def test_another_shape_is_refused():
    with pytest.raises(MMDiscardError, match='the graph gives'):
        largest_difference(LOGITS[:1], LOGITS, False)
