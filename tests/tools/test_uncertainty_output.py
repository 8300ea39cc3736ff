"""What `--uncertainty` of the test tool writes with `--out` and draws with `--show-dir`."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.fileio import load
from PIL import Image

from mmdiscard import MMDiscardError
from mmdiscard import test as tool

CLS, SEG = 'classifier', 'segmentor_stride8'


@pytest.fixture
def run(demo_model, monkeypatch, tmp_path):
    """Runs the tool on a demo model whose config knows nothing of mmdiscard; its folder."""
    monkeypatch.setenv('LOCAL_RANK', '0')

    def run(name, *flags, **changes):
        cfg, checkpoint = demo_model(name)
        cfg.merge_from_dict(changes)
        cfg.experiment_name = tmp_path.name  # runners are global
        cfg.visualizer.name = tmp_path.name
        cfg.dump(tmp_path / 'config.py')
        argv = [tmp_path / 'config.py', checkpoint, '--work-dir', tmp_path / 'work', *flags]
        tool.main([str(word) for word in argv])
        return tmp_path

    return run


@pytest.mark.parametrize('tta', [[], ['--tta']], ids=['one view', 'tta'])
def test_scores_of_a_classifier_are_dumped(run, tmp_path, tta):
    run(CLS, '--uncertainty', *tta, '--out', tmp_path / 'out.pkl')
    results = load(tmp_path / 'out.pkl')
    assert len(results) == 20
    for sample in results:
        assert sample['confidence'] == sample['pred_score'].max()
        assert sample['confidence'].shape == sample['disagreement'].shape == (1,)
    assert max(sample['disagreement'] for sample in results) > 1e-4


def test_scores_are_written_on_drawn_images(run, tmp_path):
    for name, flag in (('scores', ['--uncertainty']), ('plain', ['--states', 2])):
        run(CLS, *flag, '--show-dir', tmp_path / name, '--interval', 5)
    drawn = sorted((tmp_path / 'scores').glob('*.png'))
    assert len(drawn) == 4  # one of five
    for path in drawn:
        scores, plain = (np.asarray(Image.open(p)) for p in (path, tmp_path / 'plain' / path.name))
        changed = (scores != plain).any((1, 2))
        assert changed[-20:].any() and not changed[:20].any()  # at the bottom


@pytest.mark.parametrize('tta', [[], ['--tta']], ids=['one view', 'tta'])
def test_maps_of_a_segmentor(run, tmp_path, tta):
    written = ['--out', tmp_path / 'maps', '--show-dir', tmp_path / 'drawn']
    run(SEG, '--uncertainty', *tta, *written, **{'test_evaluator.keep_results': True})
    files = sorted((tmp_path / 'maps').glob('*_uncertainty.npz'))
    assert len(files) == len(list((tmp_path / 'maps').glob('*.png'))) == 3
    for path in files:
        labels = Image.open(path.with_name(path.name.replace('_uncertainty.npz', '.png')))
        maps = np.load(path)
        assert maps['confidence'].shape == maps['disagreement'].shape == labels.size[::-1]
        assert 0 < maps['disagreement'].max() <= 2
        assert 1 / 11 <= maps['confidence'].min() <= maps['confidence'].max() <= 1
        (drawn,) = tmp_path.glob(f'drawn/**/test_{path.name[:-16]}*_uncertainty_*.png')
        width, height = labels.size
        assert Image.open(drawn).size == (2 * width, height)
    assert len(list(tmp_path.glob('drawn/**/*.png'))) == 6


def test_data_samples_of_a_segmentor_are_dumped_with_their_maps(run, tmp_path):
    dump = dict(type='DumpResults', out_file_path=str(tmp_path / 'out.pkl'))
    evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), dump]
    run(SEG, '--uncertainty', '--states', 1, test_evaluator=evaluator)
    for sample in load(tmp_path / 'out.pkl'):
        confidence = sample['seg_logits']['data'].softmax(0).max(0).values
        assert (sample['confidence']['data'][0] == confidence).all()
        assert not sample['disagreement']['data'].any()


def test_a_folder_for_maps_is_for_segmentors(run, tmp_path):
    hook = dict(type='mmdiscard.SubsamplingSearchHook', uncertainty_dir=str(tmp_path / 'maps'))
    with pytest.raises(MMDiscardError, match='uncertainty_dir is for the maps of segmentors'):
        run(CLS, custom_hooks=[hook])


def test_flag_and_config(demo_model, tmp_path):
    cfg, checkpoint = demo_model(SEG)
    cfg.dump(tmp_path / 'config.py')
    argv = [str(tmp_path / 'config.py'), checkpoint]
    made = tool.make_config(tool.parse_args([*argv, '--uncertainty', '--tta', '--out', 'maps']))
    (hook,) = made.custom_hooks
    assert (hook.uncertainty, hook.uncertainty_dir) == (True, 'maps')
    assert made.model.type == 'mmdiscard.DiscardSegTTA'
    plain = tool.make_config(tool.parse_args([*argv, '--tta', '--states', '2', '--out', 'maps']))
    assert 'uncertainty_dir' not in plain.custom_hooks[0]
    assert plain.model.type == Config.fromfile(argv[0]).tta_model.type
    with pytest.raises(SystemExit):
        tool.parse_args([*argv, '--plain', '--uncertainty'])
