"""How often attaching runs the backbone, so that its price does not rise unseen.

Counted are the calls of the backbone's own forward, and of these the ones with an image of the size
that is traced. Seconds are measured by `benchmarks.speed.attach_cost`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from small_models import SHUFFLENET, classifier, mit_segmentor, segmentor
from torch import nn

import mmdiscard

SIZE = (224, 224)
SPREAD = dict(type='SpreadStates', budget=2)
DISCOVERY = 2  # recorded, and at another size
ENTRIES = 1  # what the entered backbone is compared with; one more for every group behind the first
SELF_TEST = 4  # predictions of the plain and the attached model, translated image, displaced state
DEPARTURE = 1  # of noise that is shifted, where the model does not follow displacements well


@contextmanager
def counted(backbone: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Height and width of what the backbone is called with; what is replayed does not count."""
    kind, sizes = type(backbone), []
    with pytest.MonkeyPatch.context() as patch:
        forward = kind.forward
        patch.setattr(
            kind, 'forward', lambda *args: sizes.append(args[1].shape[2:]) or forward(*args)
        )
        yield sizes


def forwards(model, groups, **options) -> tuple[int, int]:
    """Calls of the backbone, and of these the ones at the size that is traced."""
    with counted(model.backbone) as sizes:
        mmdiscard.attach(model, dict(groups=groups, input_size=SIZE), SPREAD, **options)
    return len(sizes), sizes.count(SIZE)


@pytest.mark.parametrize(
    'make, groups, tries, departure',
    [
        (classifier, 5, 4, DEPARTURE),
        (segmentor, 3, 2, 0),
        (mit_segmentor, 4, 3, DEPARTURE),
    ],
)
def test_every_group_adds_one_forward_of_a_small_image(make, groups, tries, departure):
    model = make()
    assert len(mmdiscard.find_subsampling(model, SIZE)) == groups
    calls, whole = forwards(model, 'all')
    assert calls == DISCOVERY + ENTRIES + tries + SELF_TEST + departure
    assert whole == 3 + departure  # recorded, translated, displaced


def test_a_group_that_needs_a_row_in_front_of_it_is_tried_twice():
    model = classifier(backbone=SHUFFLENET, channels=1024)
    calls, _ = forwards(model, 'all')
    assert calls == DISCOVERY + ENTRIES + 4 + 2 + SELF_TEST + DEPARTURE


def test_the_groups_that_are_not_searched_are_not_tried():
    calls, _ = forwards(segmentor(), [-1])
    assert calls == DISCOVERY + ENTRIES + 1 + SELF_TEST


def test_without_the_self_test_one_forward_is_of_the_whole_size():
    assert forwards(segmentor(), 'all', self_test=False) == (DISCOVERY + ENTRIES + 2, 1)


def test_the_image_alone_takes_no_discovery():
    calls, whole = forwards(segmentor(), ['image'])
    assert calls == whole == 8
