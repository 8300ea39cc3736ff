"""Views in the test loop itself: the same metrics as MM's TTA models, and errors in one line."""

import json
from pathlib import Path

import pytest
from mmengine.config import ConfigDict

from benchmarks.tta.compare import pipeline_of
from mmdiscard import MMDiscardError
from mmdiscard.engine import cli
from mmdiscard.engine.config import make_plain, use_tta
from mmdiscard.engine.load_runner import build_runner

MODELS = {
    'classifier': ('_greedy-b4', 'DiscardClsTTA'),
    'segmentor_stride8': ('_spread-b4', 'DiscardSegTTA'),
}
SLIDE = dict(mode='slide', crop_size=(64, 64), stride=(48, 48))


def metrics_of(demo_model, name, change=lambda cfg: None, **tta_model):
    """Metrics of the views of the standard policy."""
    variant, kind = MODELS[name]
    cfg, checkpoint = demo_model(name, variant)
    cfg.tta_pipeline = pipeline_of(cfg, dict(type='StandardPolicy'), 4)
    cfg.tta_model = ConfigDict(dict(type=f'mmdiscard.{kind}') | tta_model)
    change(cfg)
    use_tta(cfg)
    cfg.load_from = checkpoint
    runner = build_runner(cfg)
    return runner.test(), Path(runner.log_dir)


def sliding(cfg):
    cfg.custom_hooks = []
    cfg.model.test_cfg = SLIDE


def one_state(cfg):
    cfg.custom_hooks[0].search.budget = 1


@pytest.mark.parametrize(
    'name, change, how',
    [
        ('classifier', one_state, {}),
        ('segmentor_stride8', one_state, {}),
        ('segmentor_stride8', sliding, dict(test_cfg=SLIDE)),
    ],
    ids=['classifier, one state', 'segmentor, one state', 'segmentor, sliding'],
)
def test_the_mean_is_what_mms_own_tta_models_give(name, change, how, demo_model):
    def plain(cfg):
        make_plain(cfg)  # this brings MM's own TTA model back
        cfg.model.update(how)

    theirs, _ = metrics_of(demo_model, name, plain)
    ours, _ = metrics_of(demo_model, name, change)
    assert ours == theirs


def test_concatenated_test_sets_give_the_metrics_of_one(demo_model):
    def in_parts(cfg):
        dataset = cfg.test_dataloader.dataset
        parts = [dict(dataset, indices=range(7)), dict(dataset, indices=range(7, 20))]
        several = dict(type='ConcatDataset', datasets=parts)
        cfg.test_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=several)

    one, _ = metrics_of(demo_model, 'classifier')
    several, _ = metrics_of(demo_model, 'classifier', in_parts)
    assert several == one


@pytest.mark.parametrize('workers', [0, 1])
def test_views_that_cannot_be_made_end_the_run_in_one_line(workers, demo_model):
    def narrow(cfg):
        crop = dict(type='mmdiscard.CornerCrop', size=(80, 80))
        cfg.test_dataloader.num_workers = workers
        cfg.tta_pipeline[-1].pack = [crop, cfg.tta_pipeline[-1].pack[0]]

    with pytest.raises(MMDiscardError) as error:
        metrics_of(demo_model, 'classifier', narrow)
    said = cli._in_one_line(error.value)
    assert said.startswith("the view 'scale 1.00, centre' of ")
    assert said.endswith('is 64 x 64 by then; set pad_val, or take another scale')
    assert 'Traceback' not in said


def test_views_and_states_compete_in_the_test_loop(demo_model):
    def dumped(cfg):
        cfg.custom_hooks[0].dump = 'states.jsonl'

    metrics, folder = metrics_of(demo_model, 'classifier', dumped, joint=dict(cost=3.0))
    assert 0 <= metrics['accuracy/top1'] <= 100
    lines = [json.loads(line) for line in (folder / 'states.jsonl').read_text().splitlines()]
    assert len(lines) == 20
    for line in lines:
        assert 1 <= sum(entry['cost'] for entry in line['passes']) <= 3 + 1e-3
