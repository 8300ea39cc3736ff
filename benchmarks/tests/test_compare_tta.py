"""The comparison of TTA with and without mmdiscard: the same as testing every cell by itself."""

import json

import pytest
from mmengine.config import ConfigDict

from benchmarks.tta import compare as compare_tta
from benchmarks.tta import run as tool
from benchmarks.tta.compare import Plan, compare, pipeline_of
from benchmarks.tta.report import ALONE, ComparedModel, added, tables
from mmdiscard import MMDiscardError
from mmdiscard.engine.config import use_tta
from mmdiscard.engine.load_runner import build_runner
from mmdiscard.tta.labelled_views import LabelledViews

POLICY = dict(type='StandardPolicy', flips=False)


def plan(budgets=(4,), states=(2,)):
    return Plan(budgets, states, POLICY, LabelledViews(images=7), pixels=4)


def found_by_the_loop(demo_model, name, variant, views, merger, states):
    """The metric that the test loop finds."""
    cfg, checkpoint = demo_model(name, variant)
    cfg.tta_pipeline = pipeline_of(cfg, POLICY, views)
    cfg.custom_hooks[0].search.budget = states
    kind = 'DiscardClsTTA' if name == 'classifier' else 'DiscardSegTTA'
    cfg.tta_model = ConfigDict(type=f'mmdiscard.{kind}', merger=dict(type=merger))
    use_tta(cfg)
    cfg.load_from = checkpoint
    return build_runner(cfg).test()


@pytest.mark.parametrize(
    'name, variant, metric',
    [
        ('classifier', '_greedy-b4', 'accuracy/top1'),
        ('segmentor_stride8', '_spread-b4', 'mIoU'),
    ],
)
def test_cells_are_what_the_test_loop_finds(
    name, variant, metric, demo_model, tmp_path, monkeypatch
):
    checkpoint = demo_model(name, variant)[1]
    results = compare(lambda: demo_model(name, variant)[0], checkpoint, plan(), tmp_path)
    cells = {
        ('1', '4', 'mean'): (4, 'MeanMerger', 1),
        ('2', '4', 'entropy'): (2, 'EntropyMerger', 2),
        ('2', '2', compare_tta.ALONE): (1, 'MeanMerger', 2),
    }
    for (level, budget, row), how in cells.items():
        expected = found_by_the_loop(demo_model, name, variant, *how)[metric]
        assert results[level]['rows'][row][budget] == pytest.approx(expected, abs=1e-4)
    assert list(results['1']['rows']['plain']) == ['1']
    assert set(results['2']['rows']) == {*compare_tta.ROWS, compare_tta.ALONE}
    assert results['1']['cost'] == 1
    assert 1 < results['2']['cost'] < 3
    monkeypatch.delattr(
        compare_tta._StatesPerView, '_measure'
    )  # what is there is not computed again
    assert compare(lambda: demo_model(name, variant)[0], checkpoint, plan(), tmp_path) == results
    if name == 'classifier':  # another plan is computed anew
        with pytest.raises(AttributeError, match='_measure'):
            compare(lambda: demo_model(name, variant)[0], checkpoint, plan((6,)), tmp_path)


@pytest.mark.parametrize(
    'budgets, states, message',
    [
        ((4, 8), (2,), '--states needs one number for each'),
        ((5,), (2,), 'budget of 5 is not a whole number of views with 2 states'),
        ((4,), (1,), 'at least 2'),
        ((2,), (4,), 'budget of 2'),
    ],
)
def test_impossible_plans_are_refused(budgets, states, message):
    with pytest.raises(MMDiscardError, match=message):
        plan(budgets, states)


def test_searches_without_a_budget_are_refused(demo_model, tmp_path):
    cfg, checkpoint = demo_model('classifier', '_greedy-b4')
    cfg.custom_hooks[0].search = dict(type='FixedStates', states=[[0, 0, 0]])
    with pytest.raises(MMDiscardError, match='has no budget to vary'):
        compare(lambda: cfg, checkpoint, plan(), tmp_path)


# -------------------------------------------------------------------------------------- the report
def run(plain, mean, with_states):
    rows = {'plain': {'1': plain}, 'mean': {'4': mean, '8': mean}}
    other = (
        {'mean': {'4': with_states}, ALONE: {'2': with_states}},
        {'mean': {'8': with_states + 1}, ALONE: {'4': with_states}},
    )
    return {
        '1': dict(cost=1.0, rows=rows),
        '2': dict(cost=1.5, rows=other[0]),
        '4': dict(cost=2.5, rows=other[1]),
    }


def test_tables_pair_what_belongs_together():
    runs = [run(50, 51, 52), run(60, 60, 61), run(40, 42, 43)]
    model = ComparedModel('a model', runs, {4: 2, 8: 4})
    text = '\n'.join(tables(model))
    assert '| plain | 50.00 |  |' in text
    alone = '52.00 (+2.00 ± 2.48)'
    assert f'view | {alone}, 2 states, cost 1.5 | {alone}, 4 states, cost 2.5 |' in text
    assert '| mean | 51.00 (+1.00 ± 2.48) | 51.00 (+1.00 ± 2.48) |' in text
    assert '| mean + mmdiscard | 52.00 (+2.00 ± 2.48) | 53.00 (+3.00 ± 2.48) |' in text
    assert '| cost of TTA + mmdiscard, plain forwards | 3.0 | 5.0 |' in text
    assert '| mean | **+1.00 ± 0.00** | **+2.00 ± 0.00** |' in text
    assert added(model, 'mean', 8).mean == pytest.approx(2)


def test_the_tool_writes_a_page_and_a_figure(demo_model, tmp_path, capsys):
    cfg, checkpoint = demo_model('classifier', '_greedy-b4')
    cfg.dump(str(tmp_path / 'config.py'))
    argv = [tmp_path / 'config.py', checkpoint, '--budgets', 4, '--states', 2, '--images', 6]
    tool.main([str(arg) for arg in [*argv, '--no-flips', '--out', tmp_path / 'out']])
    table = (tmp_path / 'out/table.md').read_text()
    assert table in capsys.readouterr().out
    assert table.count('+ mmdiscard |') == len(compare_tta.ROWS)
    assert len(json.loads((tmp_path / 'out/results.json').read_text())[0]['runs']) == 1
    assert (tmp_path / 'out/budgets.png').stat().st_size > 5000
    with pytest.raises(
        MMDiscardError, match='no checkpoints in .*classifier.*run `make demo` first'
    ):
        tool.main(['--demo', '--demo-dir', str(tmp_path / 'none')])
