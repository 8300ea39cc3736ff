"""The page of a GPU, as far as a CPU can fill it; the GPU's part is stood in for."""

import warnings

import pytest
import torch
from small_models import classifier, images

import mmdiscard
from benchmarks.speed import gpu, gpu_checks, timing
from mmdiscard.engine import cli

SMALL = [
    'model.backbone.stem_channels=4',
    'model.backbone.base_channels=4',
    'model.backbone.depth=18',
]
SMALL += ['model.head.in_channels=32', 'model.head.num_classes=7']


@pytest.fixture
def small_resnet(monkeypatch):
    monkeypatch.setitem(gpu.MODELS, 'resnet50', ('resnet50', [(64, 64)]))


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
def test_without_a_gpu_one_line_and_an_error_code(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: gpu.main([]))
    assert ended.value.code == 2
    assert capsys.readouterr().err.count('no GPU can be used here') == 1


def test_the_table_is_filled_and_taken_up_again(small_resnet, tmp_path, monkeypatch):
    words = ['--device', 'cpu', '--models', 'resnet50', '--batches', '1', '2', '--turns', '1']
    words += ['--precisions', 'float32', 'AMP, channels-last', '--budgets', '1', '2', '--no-checks']
    words += ['--out', str(tmp_path), '--cfg-options', *SMALL]
    gpu.main(words)
    page = (tmp_path / 'page.md').read_text()
    searches = [line for line in page.splitlines() if '| search |' in line]
    assert len(searches) == 2 * 2 * 2  # batches, precisions, budgets
    assert '| resnet50 | 64 x 64 | 2 | AMP, channels-last |' in page
    monkeypatch.setattr(gpu.run, 'measure', None)  # everything is in the folder
    gpu.main(words)
    assert (tmp_path / 'page.md').read_text() == page


def test_a_case_that_does_not_fit_is_a_row(small_resnet, tmp_path, monkeypatch):
    def full(args):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory.')

    monkeypatch.setattr(gpu.run, 'measure', full)
    words = ['--device', 'cpu', '--models', 'resnet50', '--batches', '1', '--no-checks']
    gpu.main([*words, '--precisions', 'float32', '--out', str(tmp_path)])
    assert '| float32 | out of memory |' in (tmp_path / 'page.md').read_text()


def test_waits_are_counted_by_line(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, 'get_sync_debug_mode', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', modes.append)

    def call():
        for _ in range(3):
            warnings.warn('called a synchronizing CUDA operation', stacklevel=1)
        warnings.warn('something else', stacklevel=1)

    (waits,) = timing.count_waits(call, torch.device('cuda')).items()
    assert waits[0].startswith('tests/test_gpu_page.py:') and waits[1] == 3
    assert modes == ['warn', 0]
    assert not timing.count_waits(call, torch.device('cpu'))
    result = dict(records=[dict(waits={'a.py:1': 2}), dict(waits={'a.py:1': 5, 'b.py:7': 1})])
    assert gpu.waits({'case': result}) == [['a.py:1', '5'], ['b.py:7', '1']]


@torch.no_grad()
def test_memory_is_filled_until_the_limits_are_lowered():
    search = dict(type='SpreadStates', budget=2)
    with mmdiscard.attach(classifier(), dict(groups=[-1], input_size=64), search) as ensemble:
        forward = ensemble.executor.forward

        def small_memory(inputs):
            if len(inputs) > 20:
                raise torch.cuda.OutOfMemoryError('CUDA out of memory.')
            return forward(inputs)

        ensemble.executor.forward = small_memory
        said = gpu_checks.fill_memory(ensemble, images)
    assert '32 images did not fit' in said and 'max_rows=16 ' in said


@pytest.mark.slow
def test_distributed_test_gives_the_metrics_of_one_process(tmp_path):
    assert 'the same metrics' in gpu_checks.distributed_test(tmp_path)
