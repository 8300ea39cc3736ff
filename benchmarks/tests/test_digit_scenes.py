"""The digit scenes: deterministic, no handwriting shared, readable by MM's own datasets."""

import builtins
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes, split_handwriting

pytest.importorskip('sklearn')
SMALL = DigitSceneParams(seg_images=(3, 2, 1), cls_images=(10, 10, 10))
CONFIGS = Path(__file__).parents[2] / 'configs' / 'demo'


def files_of(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp('scenes') / 'digits', SMALL)


def test_same_parameters_same_files(root, tmp_path):
    assert files_of(make_digit_scenes(tmp_path / 'again', SMALL)) == files_of(root)


def test_another_seed_draws_other_scenes(root, tmp_path):
    other = files_of(make_digit_scenes(tmp_path / 'other', replace(SMALL, seed=1)))
    assert other.keys() == files_of(root).keys()
    assert other != files_of(root)


def test_no_handwriting_is_shared():
    splits = [set(index.tolist()) for _, _, index in split_handwriting(SMALL).values()]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 1797
    assert all(set(digits) == set(range(10)) for _, digits, _ in split_handwriting(SMALL).values())


def test_sizes_and_labels(root):
    images = sorted((root / 'segmentation' / 'images').rglob('*.png'))
    labels = sorted((root / 'segmentation' / 'labels').rglob('*.png'))
    assert [path.parts[-2:] for path in images] == [path.parts[-2:] for path in labels]
    assert len(images) == sum(SMALL.seg_images)
    for image, label in zip(images, labels, strict=True):
        pixels = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        assert cv2.imread(str(image)).shape == (SMALL.seg_size, SMALL.seg_size, 3)
        assert pixels.shape == (SMALL.seg_size, SMALL.seg_size)
        assert pixels.dtype == np.uint8
        assert pixels.max() <= 10
        assert 0 < (pixels > 0).mean() < 0.5


def test_complete_folder_is_reused(root):
    marker = root / 'classification' / 'train' / '0' / '00000.png'
    before = marker.stat().st_mtime_ns
    make_digit_scenes(root, SMALL)
    assert marker.stat().st_mtime_ns == before


def test_other_parameters_replace(tmp_path):
    make_digit_scenes(tmp_path / 'digits', SMALL)
    fewer = replace(SMALL, seg_images=(2, 1, 1))
    make_digit_scenes(tmp_path / 'digits', fewer)
    assert len(list((tmp_path / 'digits/segmentation/images/train').iterdir())) == 2
    manifest = json.loads((tmp_path / 'digits' / 'manifest.json').read_text())
    assert manifest['params']['seg_images'] == [2, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ['digits']


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='holds no digit scenes'):
        make_digit_scenes(tmp_path, SMALL)
    assert (tmp_path / 'thesis.txt').read_text() == 'mine'


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def full_disk(path, pixels, options):
        written.append(path)
        return len(written) < 5

    monkeypatch.setattr(cv2, 'imwrite', full_disk)
    with pytest.raises(OSError, match='cannot write'):
        make_digit_scenes(tmp_path / 'digits', SMALL)
    assert not list(tmp_path.iterdir())


def test_missing_scikit_learn_is_named(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.startswith('sklearn'):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without_sklearn)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        make_digit_scenes(tmp_path / 'digits', SMALL)


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize('name', ['segmentor_stride8', 'segmentor_mit', 'classifier'])
def test_configs_read_the_scenes(root, name, split):
    import mmpretrain.datasets  # noqa: F401
    import mmseg.datasets  # noqa: F401
    from mmengine.config import Config
    from mmengine.registry import DATASETS, DefaultScope

    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    dense = name.startswith('segmentor')
    dataset_cfg = cfg[f'{split}_dataloader'].dataset
    dataset_cfg.data_root = str(root / ('segmentation' if dense else 'classification'))
    number = {'train': 0, 'val': 1, 'test': 2}[split]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(dataset_cfg)
        item = dataset[0]
    assert len(dataset) == (SMALL.seg_images if dense else SMALL.cls_images)[number]
    size = SMALL.seg_size if dense else SMALL.cls_size
    assert item['inputs'].shape == (3, size, size)
    if dense:
        assert item['data_samples'].gt_sem_seg.data.shape == (1, size, size)
        assert len(cfg.metainfo.classes) == cfg.model.decode_head.num_classes == 11
    else:
        assert list(dataset.CLASSES) == [str(digit) for digit in range(10)]
