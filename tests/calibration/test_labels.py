"""Labels lie where a model's own inference puts its logits."""

import pytest
import torch
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from small_models import FCN_HEAD, classifier, images, seg_samples, segmentor
from torch.nn import functional as F

from mmdiscard import MMDiscardError
from mmdiscard.calibration.labels import ImageLabels, LabelledImages, PixelLabels


def test_windows_are_those_that_the_model_slides_over():
    test_cfg = dict(mode='slide', crop_size=(32, 48), stride=(20, 30))
    model, inputs = segmentor(test_cfg=test_cfg), images(2, (64, 80))
    seen = []
    encode_decode = model.encode_decode
    model.encode_decode = lambda x, metas: seen.append(x) or encode_decode(x, metas)
    samples = seg_samples(2, (64, 80))
    with torch.no_grad():
        model.slide_inference(inputs, [dict(sample.metainfo) for sample in samples])
    passes = list(PixelLabels(model).passes(inputs, samples))
    assert len(passes) == len(seen) > 4
    places = torch.arange(64 * 80).view(64, 80)
    for sample in samples:
        sample.gt_sem_seg.data = places[None]
    for window, own in zip(seen, PixelLabels(model).passes(inputs, samples), strict=True):
        assert torch.equal(window, own.images)
        at = own.labels[0]
        assert torch.equal(inputs[0, 0].flatten()[at], own.images[0, 0])
        assert own.context[0]['img_shape'] == window.shape[2:]


def test_padding_is_ignored_and_labels_take_the_size_of_the_image():
    model = segmentor()
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 20, 40), 3)))
    sample.set_metainfo(dict(img_shape=(40, 80), img_padding_size=[0, 16, 0, 24]))
    (own,) = PixelLabels(model).passes(images(1, (64, 96)), [sample])
    assert (own.labels[0, :40, :80] == 3).all()
    assert (own.labels[0, 40:] == 255).all() and (own.labels[0, :, 80:] == 255).all()
    total, count = own.loss(torch.randn(1, 5, 64, 96)).tolist()
    assert count == 40 * 80 and total > 0


def test_the_loss_is_the_cross_entropy_of_labels_that_count():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 6, generator=generator)
    labels = torch.randint(0, 4, (2, 6, 6), generator=generator)
    labels[0, :3] = 255
    total, count = LabelledImages(None, None, labels, 255).loss(logits)
    assert count == (labels != 255).sum()
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(total / count, expected.double())


def test_one_logit_is_that_of_the_second_class():
    logits, labels = torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 0])
    total, count = LabelledImages(None, None, labels).loss(logits)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    torch.testing.assert_close((total / count).float(), expected)


def test_independent_classes_have_their_own_losses():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 6, generator=generator)
    labels = torch.randint(0, 4, (2, 6, 6), generator=generator)
    labels[0, :3] = 255
    total, count = LabelledImages(None, None, labels, 255, independent=True).loss(logits)
    probabilities = logits.sigmoid().movedim(1, -1)[labels != 255]
    right = F.one_hot(labels[labels != 255], 4).bool()
    expected = -torch.where(right, probabilities, 1 - probabilities).log().mean()
    torch.testing.assert_close((total / count).float(), expected)


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(MMDiscardError, match='labels go from 0 to 5, but the model has 4 classes'):
        LabelledImages(None, None, torch.tensor([0, 5])).loss(torch.zeros(2, 4))


def test_coarse_logits_are_compared_at_the_nearest_label():
    labels = torch.arange(16).view(1, 4, 4)
    logits = torch.zeros(1, 16, 2, 2)
    for place, label in enumerate((0, 2, 8, 10)):
        logits[0, label].view(-1)[place] = 50
    total, count = LabelledImages(None, None, labels).loss(logits)
    assert count == 4 and total < 1e-6


@pytest.mark.parametrize('labels', [None, [1, 2]])
def test_images_need_one_label_each(labels):
    sample = DataSample()
    if labels:
        sample.set_gt_label(labels)
    with pytest.raises(MMDiscardError, match='exactly one label each'):
        list(ImageLabels(classifier()).passes(images(1), [sample]))


def test_label_maps_are_needed():
    model = segmentor(head=FCN_HEAD)
    with pytest.raises(MMDiscardError, match='add LoadAnnotations'):
        list(PixelLabels(model).passes(images(1), [SegDataSample()]))
