"""From a config and a checkpoint to files of mergers that the TTA models take."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from mmdiscard import MMDiscardError
from mmdiscard import fit_tta as tool
from mmdiscard.engine.config import use_tta
from mmdiscard.engine.load_runner import build_runner
from mmdiscard.tta.fitted_mergers import MergerFile
from mmdiscard.tta.labelled_views import LabelledViews
from mmdiscard.tta.logit_cache import LogitCache
from mmdiscard.tta.merger_fitting import MERGERS, FitRequest, fit

ROOT = Path(__file__).parents[2]


def request(checkpoint, folder, **kwargs):
    settings = dict(
        config='x.py',
        checkpoint=checkpoint,
        folder=folder,
        mergers=list(MERGERS.values()),
        images=LabelledViews(images=7),
        pixels=5,
        options={'GPSMerger': dict(count=2)},
    )
    return FitRequest(**(settings | kwargs))


@pytest.mark.parametrize(
    'name, variant, rows',
    [('classifier', '', 7), ('classifier', '_greedy-b4', 7), ('segmentor_stride8', '', 35)],
)
def test_files_fit_the_pipeline_they_were_made_for(name, variant, rows, demo_model, tmp_path):
    cfg, checkpoint = demo_model(name, variant)
    files = fit(cfg, request(checkpoint, tmp_path))
    tta = 'DiscardClsTTA' if name == 'classifier' else 'DiscardSegTTA'
    for merger, path in list(files.items())[: 1 if variant else None]:
        content = MergerFile.load(path)
        assert content.views == ('view 0', 'view 1', 'view 2')
        assert content.origin['images'] == 7
        assert bool(content.origin['states']) == bool(variant)
        run, _ = demo_model(name, variant)
        run.tta_model = dict(type=f'mmdiscard.{tta}', merger=dict(type=merger, file=str(path)))
        use_tta(run)
        run.load_from = checkpoint
        metrics = build_runner(run).test()
        assert all(np.isfinite(value) for value in metrics.values())
    cache = np.load(tmp_path / 'logits/logits.npy', mmap_mode='r')
    assert cache.shape[:2] == (rows, 3)


def test_several_data_sets_give_the_logits_of_one(demo_model, tmp_path):
    cfg, checkpoint = demo_model('segmentor_stride8')
    fit(cfg, request(checkpoint, tmp_path / 'one', mergers=[]))
    cfg, _ = demo_model('segmentor_stride8')
    dataset = cfg.train_dataloader.dataset
    parts = [dict(dataset, indices=[0, 1, 2]), dict(dataset, indices=range(3, 9))]
    cfg.train_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=parts)
    fit(cfg, request(checkpoint, tmp_path / 'parts', mergers=[]))
    one, parts = (np.load(tmp_path / name / 'logits/logits.npy') for name in ('one', 'parts'))
    assert np.array_equal(one, parts)


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_where_it_was(demo_model, tmp_path, monkeypatch):
    cfg, checkpoint = demo_model('classifier')
    whole = fit(cfg, request(checkpoint, tmp_path / 'whole'))
    seen = []
    write = LogitCache.write

    def interrupted(self, image, *args):
        if len(seen) == 4:
            self.flush()
            raise Stop
        seen.append(image)
        write(self, image, *args)

    monkeypatch.setattr(LogitCache, 'write', interrupted)
    with pytest.raises(Stop):
        fit(demo_model('classifier')[0], request(checkpoint, tmp_path / 'parts'))
    assert not list((tmp_path / 'parts').glob('*.json'))
    again = []

    def counted(self, image, *args):
        again.append(image)
        write(self, image, *args)

    monkeypatch.setattr(LogitCache, 'write', counted)
    parts = fit(demo_model('classifier')[0], request(checkpoint, tmp_path / 'parts'))
    assert (seen, again) == ([0, 1, 2, 3], [4, 5, 6])
    for merger, path in parts.items():
        assert MergerFile.load(path).parameters == MergerFile.load(whole[merger]).parameters
    again.clear()
    fit(demo_model('classifier')[0], request(checkpoint, tmp_path / 'parts', mergers=['GPSMerger']))
    assert again == []  # another merger takes the same logits
    changed = request(checkpoint, tmp_path / 'parts', images=LabelledViews(images=7, seed=1))
    fit(demo_model('classifier')[0], changed)
    assert len(again) == 7


def test_pixels_are_those_of_the_labels_and_ignored_ones_are_left_out(tmp_path):
    cache = LogitCache(tmp_path / 'cache', dict(a=1), images=2, rows=3)
    cache.begin(['x', 'y'], 4)
    logits = torch.randn(3, 2, 4)
    cache.write(1, logits, torch.tensor([2, -1, 0]))
    cache.flush()
    again = LogitCache(tmp_path / 'cache', dict(a=1), images=2, rows=3)
    assert again.missing() == [0]
    assert again.views == ('x', 'y')
    again.begin(['x', 'y'], 4)
    again.write(0, logits, torch.tensor([-1, -1, 3]))
    kept, labels = again.read()
    assert labels.tolist() == [3, 2, 0]
    assert torch.equal(kept, logits[[2, 0, 2]])
    with pytest.raises(MMDiscardError, match='different views or classes'):
        again.begin(['x', 'z'], 4)
    assert LogitCache(tmp_path / 'cache', dict(a=2), images=2, rows=3).missing() == [0, 1]
    assert not (tmp_path / 'cache').exists()


# ------------------------------------------------------------------------------------------ errors
def test_the_test_set_is_refused(demo_model, tmp_path):
    cfg, checkpoint = demo_model('classifier')
    cfg.val_dataloader = cfg.test_dataloader
    images = LabelledViews(split='val')
    with pytest.raises(MMDiscardError, match='is its test split'):
        fit(cfg, request(checkpoint, tmp_path, images=images))


def test_views_are_asked_for(demo_model, tmp_path):
    cfg, checkpoint = demo_model('classifier')
    cfg.tta_pipeline = None
    with pytest.raises(MMDiscardError, match='no `tta_pipeline`.*configs/_base_/tta'):
        fit(cfg, request(checkpoint, tmp_path))


def test_labels_are_asked_for(demo_model, tmp_path):
    cfg, checkpoint = demo_model('segmentor_stride8')
    steps = cfg.tta_pipeline[1].transforms
    cfg.tta_pipeline[1].transforms = [part for part in steps if part[0].type != 'LoadAnnotations']
    with pytest.raises(MMDiscardError, match='add LoadAnnotations to tta_pipeline'):
        fit(cfg, request(checkpoint, tmp_path))


@pytest.mark.parametrize(
    'changes, message',
    [(dict(pixels=0), '--pixels'), (dict(images=LabelledViews(images=0)), '--images')],
)
def test_impossible_numbers_are_refused(changes, message, demo_model, tmp_path):
    cfg, checkpoint = demo_model('classifier')
    with pytest.raises(MMDiscardError, match=message):
        fit(cfg, request(checkpoint, tmp_path, **changes))


# ---------------------------------------------------------------------------------------- the tool
def test_the_tool_writes_what_it_was_asked_for(demo_model, tmp_path, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    cfg, checkpoint = demo_model('classifier', '_greedy-b4')
    cfg.dump(str(tmp_path / 'config.py'))
    argv = [tmp_path / 'config.py', checkpoint, '--merger', 'gps', '--plain', '--images', '6']
    argv += ['--gps-views', '1', '--gps-likelihood', '--folder', tmp_path / 'out']
    tool.main([str(arg) for arg in [*argv, '--work-dir', tmp_path / 'work']])
    written = json.loads((tmp_path / 'out/GPSMerger.json').read_text())
    assert len(written['parameters']['indices']) == 1
    assert written['origin']['states'] is None
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'GPSMerger.json',
        'logits',
    ]
