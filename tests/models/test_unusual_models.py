"""Models of unusual code: what they overwrite, mask, return, build or exchange; see README.md."""

import pytest
import torch
from mmpretrain.models.heads import LinearClsHead
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads import FCNHead
from small_models import FCN_HEAD, classifier, images, randomize, segmentor
from test_self_test import FOUR, ONE, of_class, predicted
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from translation import deviation

import mmdiscard
from mmdiscard import MMDiscardError

IMAGE = FOUR | dict(subsampling=dict(groups=['image']))
ALL = FOUR | dict(subsampling=dict(groups='all'))
GREEDY = ALL | dict(search=dict(type='GreedySearch', budget=4))
UNSURE = dict(where='unsure')
AUTO = dict(subsampling=dict(groups='auto'))
ENTROPY = FOUR | dict(aggregator=dict(type='EntropyAggregator', on='logits', align='exact'))


class Trunk(nn.Module):
    """Three strided convolutions."""

    def __init__(self, strides=(2, 2, 2)) -> None:
        super().__init__()
        widths = (3, 8, 16, 32)
        for i, stride in enumerate(strides):
            setattr(self, f'c{i}', nn.Conv2d(*widths[i : i + 2], 3, stride, 1))

    def levels(self, x):
        first = self.c0(x).relu()
        second = self.c1(self.between(first)).relu()
        return first, second, self.c2(second).relu()

    def between(self, x):
        return x

    def forward(self, x):
        return self.levels(x)


def with_trunk(trunk: nn.Module | None = None, cls: type = EncoderDecoder, head: type = FCNHead):
    model = of_class(cls, lambda: segmentor(head=FCN_HEAD | dict(in_index=-1)))
    model.backbone = trunk or Trunk()
    model.decode_head.__class__ = head
    return randomize(model)


def merged(model: nn.Module, x: torch.Tensor, settings: dict) -> torch.Tensor:
    with mmdiscard.attach(model, **settings):
        return predicted(model, x.clone())


# ------------------------------------------------------------------------------- overwritten
class ScalesInPlace(Trunk):
    def levels(self, x):
        return super().levels(x.sub_(0.1).mul_(0.9))


class ScalesACopy(Trunk):
    def levels(self, x):
        return super().levels((x - 0.1) * 0.9)


class OverwritesLevels(FCNHead):
    def forward(self, inputs):
        inputs[0].zero_()
        inputs[-1].relu_().mul_(2)
        return super().forward(inputs)


class Doubles(FCNHead):
    def forward(self, inputs):
        return super().forward([*inputs[:-1], inputs[-1] * 2])


@pytest.mark.parametrize('settings', [FOUR, GREEDY, IMAGE, UNSURE], ids=str)
@pytest.mark.parametrize(
    ('found', 'expected'),
    [
        (lambda: with_trunk(ScalesInPlace()), lambda: with_trunk(ScalesACopy())),
        (lambda: with_trunk(head=OverwritesLevels), lambda: with_trunk(head=Doubles)),
    ],
    ids=['images by the backbone', 'levels by the head'],
)
def test_what_is_overwritten_is_a_copy(found, expected, settings):
    x = images(2, (96, 96))
    # `auto` settles on other groups where gradients are missing, so name them.
    settings = dict(subsampling=dict(groups=[-1])) | settings
    torch.testing.assert_close(
        merged(found(), x, settings), merged(expected(), x, settings), rtol=1e-6, atol=1e-6
    )


class OverwritesImages(EncoderDecoder):
    def extract_feat(self, inputs):
        return super().extract_feat(inputs.sub_(0.1))


@pytest.mark.parametrize('settings', [{}, FOUR, IMAGE], ids=str)
def test_a_model_that_overwrites_its_images_is_refused(settings):
    with pytest.raises(MMDiscardError, match='overwrites the images'):
        mmdiscard.attach(with_trunk(cls=OverwritesImages), **settings)


# ------------------------------------------------------------------------------ masked classes
class MasksAClass(EncoderDecoder):
    def encode_decode(self, inputs, batch_img_metas):
        logits = super().encode_decode(inputs, batch_img_metas)
        logits[:, 1] = float('-inf')
        return logits


@pytest.mark.parametrize('settings', [FOUR, FOUR | dict(max_rows=1), IMAGE], ids=str)
def test_the_other_classes_of_a_segmentor_are_as_without_a_masked_one(settings):
    x, rest = images(2, (96, 96)), [0, 2, 3, 4]
    settings = dict(
        aggregator=dict(type='AverageAggregator', on='logits', align='exact'), **settings
    )
    model = with_trunk(cls=MasksAClass)
    assert torch.equal(merged(model, x, ONE), predicted(model, x))
    found = merged(model, x, settings)
    torch.testing.assert_close(found[:, rest], merged(with_trunk(), x, settings)[:, rest])
    assert (found[:, 1] < -1e30).all()


@pytest.mark.parametrize('settings', [GREEDY, ENTROPY, UNSURE, dict(uncertainty=True)], ids=str)
def test_what_is_weighed_or_compared_is_finite_with_a_masked_class(settings):
    model, x = with_trunk(cls=MasksAClass), images(2, (96, 96))
    with mmdiscard.attach(model, **settings) as ensemble, torch.no_grad():
        sample = model.predict(x)[0]
        scores = ensemble.last.scores
    assert not sample.seg_logits.data.isnan().any()
    assert scores is None or scores.isfinite().all()
    assert 'disagreement' not in sample or sample.disagreement.data.isfinite().all()


def test_a_masked_class_of_a_classifier_has_no_score():
    class Masks(LinearClsHead):
        def forward(self, feats):
            return super().forward(feats).index_fill(1, torch.tensor([2]), float('-inf'))

    model, x = classifier(), images(2)
    model.head.__class__ = Masks
    for settings in ({}, dict(search=dict(type='GreedySearch', budget=4))):
        found = merged(model, x, settings)
        assert (found[:, 2] == 0).all()
        torch.testing.assert_close(found.sum(1), torch.ones(2))


# ----------------------------------------------------------------------- what models return
class InNumPy(FCNHead):
    def forward(self, inputs):
        return torch.from_numpy(super().forward(inputs).numpy())


class NoGradients(FCNHead):
    @torch.no_grad()
    def forward(self, inputs):
        return super().forward(inputs)


@pytest.mark.parametrize('head', [InNumPy, NoGradients])
def test_a_head_without_gradients_may_read_every_level(head):
    model = with_trunk(head=head)
    with mmdiscard.attach(model) as ensemble:
        assert [group.name for group in ensemble.groups] == ['c0']
    assert deviation(model, (64, 96), **AUTO) < 0.01


class ReturnsAList(EncoderDecoder):
    def encode_decode(self, inputs, batch_img_metas):
        return [super().encode_decode(inputs, batch_img_metas)]

    def inference(self, inputs, batch_img_metas):
        return self.encode_decode(inputs, batch_img_metas)[0]


@pytest.mark.parametrize('settings', [{}, FOUR, IMAGE], ids=str)
def test_a_list_of_logits_is_refused(settings):
    with pytest.raises(MMDiscardError, match='does not return a tensor of class scores'):
        mmdiscard.attach(with_trunk(cls=ReturnsAList), **settings)


class PastForward(EncoderDecoder):
    def extract_feat(self, inputs):
        return self.backbone.levels(inputs)


class TwoInputs(EncoderDecoder):
    def extract_feat(self, inputs):
        return self.backbone(inputs, inputs.mean(1, keepdim=True))


class WithDepth(Trunk):
    def forward(self, x, depth):
        return self.levels(x + depth)


@pytest.mark.parametrize(
    'make',
    [lambda: with_trunk(cls=PastForward), lambda: with_trunk(WithDepth(), TwoInputs)],
    ids=['calls a method of the backbone', 'two inputs'],
)
def test_a_backbone_that_is_not_called_with_images_leaves_the_image(make):
    model = make()
    with mmdiscard.attach(model) as ensemble:
        assert [group.name for group in ensemble.groups] == ['image']
    assert deviation(model, (64, 96), **AUTO) < 0.01
    with pytest.raises(MMDiscardError):
        mmdiscard.attach(model, **FOUR)


# -------------------------------------------------------------------- where tensors are made
@pytest.mark.parametrize('settings', [{}, FOUR, GREEDY], ids=str)
def test_attached_in_inference_mode(settings):
    model, x = with_trunk(), images(2)
    expected = merged(model, x, settings)
    with torch.inference_mode():
        assert torch.equal(merged(model, x, settings), expected)


def test_weights_that_cannot_be_used_are_refused():
    with torch.inference_mode():
        model = segmentor()
    with pytest.raises(MMDiscardError, match='built within torch.inference_mode'):
        mmdiscard.attach(model)
    with pytest.raises(MMDiscardError, match='meta device'):
        mmdiscard.attach(segmentor().to('meta'))


# ------------------------------------------------------------------ exchanged while attached
class Adapted(nn.Module):
    """A layer with a small one beside it, as adapters of low rank are."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        self.beside = nn.Conv2d(base.in_channels, base.out_channels, 1, base.stride)

    def forward(self, x):
        return self.base(x) + self.beside(x)


@pytest.mark.parametrize(
    ('make', 'path', 'new'),
    [
        (with_trunk, 'backbone', lambda old: randomize(Trunk(), 1)),
        (with_trunk, 'backbone.c2', lambda old: randomize(Adapted(old), 1)),
        (classifier, 'head', lambda old: classifier().head),
    ],
    ids=['backbone', 'searched layer', 'head of a classifier'],
)
def test_an_exchanged_part_is_noticed(make, path, new):
    model, x = make(), images(2)
    ensemble = mmdiscard.attach(model, **FOUR)
    parent, _, name = path.rpartition('.')
    setattr(model.get_submodule(parent), name, new(model.get_submodule(path)))
    with pytest.raises(MMDiscardError, match=f"'{path}' of .* was exchanged"):
        predicted(model, x)
    ensemble.detach()
    plain = predicted(model, x)
    assert torch.equal(merged(model, x, ONE), plain)
    assert not torch.equal(merged(model, x, FOUR), plain)
    assert torch.equal(predicted(model, x), plain)


def test_parts_that_are_free_to_change():
    model, changed, x = with_trunk(), with_trunk(), images(2).double()
    with mmdiscard.attach(model, **FOUR):
        for each in (model, changed):
            each.decode_head = randomize(
                segmentor(head=FCN_HEAD | dict(in_index=-1)).decode_head, 3
            )
            each.backbone.c0 = randomize(nn.Conv2d(3, 8, 3, 2, 1), 4)
            each.double().to(memory_format=torch.channels_last)
        found = predicted(model, x)
    torch.testing.assert_close(found, merged(changed, x, FOUR))


@pytest.mark.parametrize('make', [with_trunk, classifier])
def test_a_detached_ensemble_is_refused(make):
    model, x = make(), images(1)
    with mmdiscard.attach(model, **FOUR) as ensemble:
        pass
    state = torch.tensor([[1]])
    for use in (
        lambda: ensemble.predict(x),
        lambda: next(ensemble.explore(x, state)),
        lambda: ensemble.evaluate(x, state),
    ):
        with pytest.raises(MMDiscardError, match='is detached'):
            use()


# -------------------------------------------------------------------------------- odd batches
def test_metas_of_one_image_and_batches_without_images():
    model, x, meta = with_trunk(), images(2), dict(img_shape=(64, 64))
    with mmdiscard.attach(model, **FOUR):
        expected = model.encode_decode(x, [meta] * 2)
        assert torch.equal(model.encode_decode(x, [meta]), expected)
        assert model.encode_decode(x[:0], [meta]).shape == (0, 5, 64, 64)


@pytest.mark.parametrize('settings', [{}, GREEDY, IMAGE, UNSURE], ids=str)
@pytest.mark.parametrize('size', [(1, 1), (2, 9), (7, 33)])
def test_images_smaller_than_the_stride(size, settings):
    model, x = with_trunk(), images(2, size)
    found = merged(model, x, settings)
    assert found.shape == (2, 5, *size)
    assert found.isfinite().all()
    if size == (1, 1) and settings is not GREEDY:  # any displacement repeats the only pixel
        assert torch.allclose(merged(model, x, settings | dict(ONE)), predicted(model, x))


# ------------------------------------------------------------------------- trunks of all kinds
class Checkpointed(Trunk):
    def between(self, x):
        return checkpoint(F.silu, x, use_reentrant=False)


class Fourier(Trunk):
    def between(self, x):
        waves = torch.fft.rfft2(x)
        return torch.fft.irfft2(waves * torch.linspace(0.5, 1.5, waves.shape[-1]), s=x.shape[2:])


class BrainFloat(Trunk):
    def between(self, x):
        return x.bfloat16().exp().float()


def normed() -> nn.Module:
    trunk = Trunk()
    parametrizations.spectral_norm(trunk.c1)
    parametrizations.weight_norm(trunk.c2)
    return trunk


class ShufflesPixels(EncoderDecoder):
    def encode_decode(self, inputs, batch_img_metas):
        logits = self.decode_head(self.extract_feat(inputs))
        fine = torch.linspace(0.5, 2, 64).view(-1, 1, 1).repeat(logits.shape[1], 1, 1)
        return F.pixel_shuffle(logits.repeat_interleave(64, 1) * fine, 8)


@pytest.mark.parametrize(
    ('make', 'groups'),
    [
        (lambda: with_trunk(Trunk((3, 2, 1))), 'c1'),
        (lambda: with_trunk(Trunk(((2, 1), (1, 2), 2))), 'c2'),
        (lambda: with_trunk(Checkpointed()), 'c2'),
        (lambda: with_trunk(Fourier()), 'c2'),
        (lambda: with_trunk(BrainFloat()), 'c2'),
        (lambda: with_trunk(normed()), 'c2'),
        (lambda: with_trunk(cls=ShufflesPixels), 'c2'),
    ],
    ids=['stride 6', 'oblong strides', 'checkpoint', 'Fourier', 'bfloat16', 'norms', 'shuffle'],
)
def test_trunks_and_heads_of_other_kinds_are_right(make, groups):
    model, x = make(), images(1, (96, 96))
    assert torch.equal(merged(model, x, AUTO | ONE), predicted(model, x))
    with mmdiscard.attach(model) as ensemble:
        assert [group.name for group in ensemble.groups] == [groups]
    assert deviation(model, (96, 96), **AUTO) < 0.02


# ------------------------------------------------------------------------------------ remembered
class Remembers(Trunk):
    """Adds the mean of the last features, which it keeps as a plain attribute."""

    def between(self, x):
        x = x + getattr(self, 'memory', 0.0)
        self.memory = x.mean().detach()
        self.sizes = [x.mean()]
        return x


@pytest.mark.parametrize('settings', [AUTO, FOUR, IMAGE])
@pytest.mark.parametrize('used', [True, False])
def test_a_memory_of_earlier_images_is_refused_and_left_as_it_was(settings, used):
    model = with_trunk(Remembers())
    if used:
        predicted(model, images(2))
    before = {k: v for k, v in vars(model.backbone).items() if k in ('memory', 'sizes')}
    with pytest.raises(MMDiscardError, match='it remembers earlier images'):
        mmdiscard.attach(model, **settings)
    after = {k: v for k, v in vars(model.backbone).items() if k in ('memory', 'sizes')}
    assert after == before and len(before) == 2 * used


def test_a_cache_that_was_empty_is_empty_again():
    class Cached(Trunk):
        def __init__(self) -> None:
            super().__init__()
            self.codes = None

        def between(self, x):
            if self.codes is None:
                self.codes = torch.linspace(0, 1, x.shape[1]).view(-1, 1, 1)
            return x + self.codes

    model, x = with_trunk(Cached()), images(2)
    expected = merged(with_trunk(Cached()), x, ONE)
    with mmdiscard.attach(model, **FOUR):
        assert model.backbone.codes is None
        predicted(model, x)
    assert torch.equal(predicted(model, x), expected)
