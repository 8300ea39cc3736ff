"""The views of both policies, through MM's own transforms, on real pictures."""

from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from sklearn.datasets import load_digits

from mmdiscard import MMDiscardError
from mmdiscard.registry import POLICIES, build
from mmdiscard.tta import CornerCrop, ExpandedPolicy, StandardPolicy, TestTimePolicy, Zoom
from mmdiscard.tta.policies import SCALES

ROOT = Path(__file__).parents[2]
PACK = {'mmpretrain': dict(type='PackInputs'), 'mmseg': dict(type='PackSegInputs')}


def picture(height=64, width=64):
    """Handwriting, coloured, as a loader gives it."""
    digit = load_digits().images[5] * 15.9
    image = np.kron(digit, np.ones((height // 8 + 1, width // 8 + 1)))[:height, :width]
    image = np.stack([image, 255 - image, image / 2], 2).astype(np.uint8)
    shape = image.shape[:2]
    return dict(img=image, img_shape=shape, ori_shape=shape, img_path='five.png', gt_label=5)


def views_of(policy, scope='mmpretrain', **kwargs):
    import mmpretrain.datasets  # noqa: F401  (they register)
    import mmseg.datasets  # noqa: F401

    init_default_scope(scope)
    transform = TestTimePolicy(policy, PACK[scope], dense=scope == 'mmseg')
    return transform.transform(picture(**kwargs))


# ------------------------------------------------------------------------------------------ lists
def test_numbers_of_views():
    assert len(StandardPolicy(crop_size=224).views()) == 190
    assert len(StandardPolicy(crop_size=224, flips=False).views()) == 95
    assert len(StandardPolicy().views()) == 182
    assert len(StandardPolicy().views(dense=True)) == 38
    assert len(ExpandedPolicy().views()) == 200
    assert len(ExpandedPolicy().views(dense=True)) == 200


@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('policy', [StandardPolicy, ExpandedPolicy])
def test_views_have_names_of_their_own_and_the_image_comes_first(policy, dense):
    views = policy().views(dense)
    assert len({view.name for view in views}) == len(views)
    assert views[0].steps == ()
    assert [view.name for view in policy(budget=7).views(dense)] == [v.name for v in views[:7]]


def test_scales_go_from_the_closest_to_the_farthest():
    assert SCALES[:5] == [1.0, 0.98, 1.04, 0.92, 1.1]
    assert sorted(SCALES, key=lambda scale: abs(scale - 1)) == SCALES
    assert (min(SCALES), max(SCALES), len(SCALES)) == (0.08, 1.1, 19)


def test_expanded_views_are_mild_before_strong_and_single_before_pairs():
    names = [view.name for view in ExpandedPolicy().views()]
    assert names.index('rotate -3.3333') < names.index('rotate -30')
    assert names.index('posterize 4') < names.index('posterize 1')
    assert names.index('solarize 240') < names.index('solarize 24')
    paired = [' + ' in name for name in names]
    assert paired == sorted(paired)
    assert paired.count(False) == 8 + 4 + 12 * 10


@pytest.mark.parametrize('policy', [StandardPolicy, ExpandedPolicy])
def test_flips_can_be_left_out(policy):
    assert not any('flip' in view.name for view in policy(flips=False).views())


def test_segmentors_get_nothing_that_cannot_be_undone():
    names = ' '.join(view.name for view in ExpandedPolicy().views(dense=True))
    assert not {'rotate', 'crop', 'shear', 'translate'} & set(names.split())
    assert 'left-right + flip up' not in names


def test_pairs_are_the_same_every_time():
    assert ExpandedPolicy().views() == ExpandedPolicy().views()
    assert ExpandedPolicy().views() != ExpandedPolicy(seed=1).views()


@pytest.mark.parametrize('budget', [0, -1, 2.5, True, 'ten'])
def test_impossible_budgets_are_refused(budget):
    with pytest.raises(MMDiscardError, match='whole number of views, at least 1'):
        StandardPolicy(budget=budget)


def test_budgets_beyond_the_policy_are_refused():
    with pytest.raises(MMDiscardError, match='38 views for segmentors, and budget is 39'):
        StandardPolicy(budget=39).views(dense=True)
    with pytest.raises(MMDiscardError, match='unknown TTA policy .*ExpandedPolicy, StandardPolicy'):
        build(POLICIES, dict(type='Standard'))


# ---------------------------------------------------------------------------------------- pictures
@pytest.mark.parametrize('policy', ['StandardPolicy', 'ExpandedPolicy'])
def test_every_view_can_be_made_and_keeps_the_size(policy):
    packed = views_of(dict(type=policy), height=48, width=64)
    names = [sample.metainfo['view'] for sample in packed['data_samples']]
    assert names == [view.name for view in build(POLICIES, dict(type=policy)).views()]
    assert {tuple(image.shape) for image in packed['inputs']} == {(3, 48, 64)}
    assert {int(sample.gt_label) for sample in packed['data_samples']} == {5}
    images = {image.numpy().tobytes() for image in packed['inputs']}
    assert len(images) > 0.85 * len(names)  # some do nothing to a picture of few colours


def test_views_are_the_same_every_time():
    first, second = (views_of(dict(type='ExpandedPolicy', budget=140)) for _ in range(2))
    for a, b in zip(first['inputs'], second['inputs'], strict=True):
        assert (a == b).all()


def test_segmentors_get_maps_of_every_size_and_the_flips_to_undo():
    packed = views_of(dict(type='StandardPolicy', budget=6), 'mmseg')
    sizes = [tuple(image.shape[1:]) for image in packed['inputs']]
    assert sizes == [(64, 64)] * 2 + [(63, 63)] * 2 + [(67, 67)] * 2
    assert [bool(s.metainfo.get('flip')) for s in packed['data_samples']] == [False, True] * 3
    assert {s.metainfo['ori_shape'] for s in packed['data_samples']} == {(64, 64)}


def test_crops_lie_where_they_say():
    image = np.arange(6 * 8).reshape(6, 8, 1).repeat(3, 2).astype(np.uint8)
    cut = {
        corner: CornerCrop(corner, (4, 4)).transform(dict(img=image))['img'][..., 0]
        for corner in ('centre', 'top left', 'bottom right', 'top right', 'bottom left')
    }
    assert (cut['centre'] == image[1:5, 2:6, 0]).all()
    assert (cut['top left'] == image[:4, :4, 0]).all()
    assert (cut['bottom right'] == image[2:, 4:, 0]).all()
    assert (cut['top right'] == image[:4, 4:, 0]).all()
    assert (cut['bottom left'] == image[2:, :4, 0]).all()


def test_small_images_lie_in_their_corner():
    image = np.full((2, 3, 3), 9, np.uint8)
    out = CornerCrop('bottom right', (4, 5), pad_val=1).transform(dict(img=image))['img']
    assert (out[2:, 2:] == 9).all()
    assert out.sum() == 3 * (6 * 9 + 14)


def test_zoom_keeps_the_size():
    image = picture()['img']
    zoomed = Zoom(0.1).transform(dict(img=image))['img']
    assert zoomed.shape == image.shape
    assert (zoomed != image).any()


def test_views_that_cannot_be_made_are_named():
    with pytest.raises(MMDiscardError, match="'middle' is none of centre, top left"):
        CornerCrop('middle')
    with pytest.raises(MMDiscardError) as error:
        views_of(dict(type='StandardPolicy', crop_size=80, pad_val=None))
    assert str(error.value) == (
        "the view 'scale 1.00, centre' of five.png (64 x 64) cannot be made: a crop of 80 x 80 is "
        'larger than the image, which is 64 x 64 by then; set pad_val, or take another scale'
    )


@pytest.mark.parametrize(
    'name, scope, views, first',
    [
        ('imagenet_standard-30', 'mmpretrain', 30, 'scale 1.00, centre'),
        ('imagenet_expanded-30', 'mmpretrain', 30, 'identity'),
        ('segmentor_standard-12', 'mmseg', 12, 'scale 1.00'),
    ],
)
def test_base_configs_make_their_views(name, scope, views, first, tmp_path):
    cfg = Config.fromfile(ROOT / f'configs/_base_/tta/{name}.py')
    image = picture(300, 400)['img']
    Image.fromarray(image).save(tmp_path / 'image.png')
    Image.fromarray(image[..., 0] // 32).save(tmp_path / 'labels.png')
    init_default_scope(scope)
    results = dict(img_path=str(tmp_path / 'image.png'), seg_map_path=str(tmp_path / 'labels.png'))
    results |= dict(gt_label=5, reduce_zero_label=False, seg_fields=[])
    packed = Compose(cfg.tta_pipeline)(results)
    assert len(packed['inputs']) == views
    assert packed['data_samples'][0].metainfo['view'] == first
    if scope == 'mmpretrain':
        assert {tuple(image.shape) for image in packed['inputs']} == {(3, 224, 224)}
    else:
        assert packed['data_samples'][-1].gt_sem_seg.shape == (300, 400)
