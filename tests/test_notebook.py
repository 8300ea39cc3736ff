"""The notebook of `demo/` runs from its first cell to its last."""

import json
from pathlib import Path

import pytest
from matplotlib import pyplot

NOTEBOOK = Path(__file__).parents[1] / 'demo' / 'mmdiscard.ipynb'


@pytest.fixture
def no_window():
    pyplot.switch_backend('Agg')
    yield
    pyplot.close('all')


def test_notebook_runs(tmp_path, monkeypatch, no_window):
    monkeypatch.chdir(tmp_path)  # no trained weights, and no images, are near
    cells = json.loads(NOTEBOOK.read_text())['cells']
    namespace = {'__name__': '__main__'}
    for number, cell in enumerate(cells):
        if cell['cell_type'] == 'code':
            assert cell['outputs'] == [], 'clear the outputs before the notebook is committed'
            exec(compile(''.join(cell['source']), f'cell {number}', 'exec'), namespace)
    assert namespace['last'].states.shape == (1, 4, 1)
    assert namespace['logits'].shape == (4, 11, 96, 96)
