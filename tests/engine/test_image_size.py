"""The size of image that a test traces with."""

import pytest
import torch
from small_models import classifier, segmentor
from torch.utils.data import DataLoader, Dataset

from mmdiscard.engine.image_size import size_to_trace


class Images(Dataset):
    """One image of zeros, as MM's data sets give it."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(3, *self.size, dtype=torch.uint8))


def loader(size, views=0):
    def collate(items):
        inputs = [item['inputs'] for item in items]
        return dict(inputs=[inputs] * views if views else inputs)

    return DataLoader(Images(size), collate_fn=collate)


@pytest.mark.parametrize(
    ('size', 'views', 'expected'),
    [((64, 96), 0, (64, 96)), ((64, 96), 2, (64, 96)), ((1024, 2048), 0, (256, 512))],
)
def test_size_of_the_first_image(size, views, expected):
    assert size_to_trace(segmentor(), loader(size, views)) == expected


def test_slide_inference_sees_windows():
    slide = dict(mode='slide', crop_size=(64, 32), stride=(32, 32))
    assert size_to_trace(segmentor(test_cfg=slide), loader((64, 96))) == (64, 32)


def test_without_a_first_image_the_default_is_taken():
    class Empty(Images):
        def __getitem__(self, index):
            raise FileNotFoundError('no image')

    assert size_to_trace(classifier(), DataLoader(Empty((1, 1)))) is None
