"""What attaching assumes of a model: handled or refused in one line, never assumed."""

import pytest
import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import LinearClsHead
from mmseg.models import EncoderDecoder
from small_models import FCN_HEAD, classifier, images, mit_segmentor, segmentor
from torch import nn

import mmdiscard
from mmdiscard import MMDiscardError

ONE = dict(search=dict(type='SpreadStates', budget=1))
FOUR = dict(subsampling=dict(groups=[-1]), search=dict(type='SpreadStates', budget=4))


@torch.no_grad()
def predicted(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    samples = model.predict(inputs)
    return torch.stack([s.seg_logits.data if 'seg_logits' in s else s.pred_score for s in samples])


def of_class(cls: type, make, **attributes) -> nn.Module:
    """A small model whose class is exchanged for a subclass of its own."""
    model = make()
    model.__class__ = cls
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


# --------------------------------------------------------------------------- handled, and right
class Rescaled(EncoderDecoder):
    def extract_feat(self, inputs):
        return super().extract_feat(inputs * 0.5 + 1)


class Enlarged(EncoderDecoder):
    def extract_feat(self, inputs):
        return super().extract_feat(nn.functional.interpolate(inputs, scale_factor=2))


class SixBands(EncoderDecoder):
    def extract_feat(self, inputs):
        return super().extract_feat(inputs[:, :3] - inputs[:, 3:])


class WithPrior(EncoderDecoder):
    def inference(self, inputs, batch_img_metas):
        logits = super().inference(inputs, batch_img_metas)
        return logits * torch.linspace(0.5, 2, logits.shape[1]).view(-1, 1, 1)


class RescaledClassifier(ImageClassifier):
    def extract_feat(self, inputs, stage='neck'):
        return super().extract_feat(inputs.clamp(-1, 1), stage)


class PriorCorrected(ImageClassifier):
    def predict(self, inputs, data_samples=None, **kwargs):
        samples = super().predict(inputs * 2, data_samples, **kwargs)
        for sample in samples:
            prior = torch.linspace(0.2, 2, len(sample.pred_score))
            sample.set_pred_score(sample.pred_score * prior)
        return samples


def test_a_model_may_take_more_bands_than_its_backbone():
    model = of_class(SixBands, segmentor)
    model.data_preprocessor = None
    x, plain = images(4).view(2, 6, 64, 64), segmentor()
    with mmdiscard.attach(plain, **FOUR):
        expected = predicted(plain, x[:, :3] - x[:, 3:])
    with mmdiscard.attach(model, **FOUR):
        assert torch.equal(predicted(model, x), expected)


@pytest.mark.parametrize(
    ('cls', 'make', 'received'),
    [
        (Rescaled, segmentor, lambda x: x * 0.5 + 1),
        (Rescaled, mit_segmentor, lambda x: x * 0.5 + 1),
        (RescaledClassifier, classifier, lambda x: x.clamp(-1, 1)),
    ],
)
def test_what_a_model_does_to_its_images_is_done_to_every_state(cls, make, received):
    x, plain = images(2), make()
    with mmdiscard.attach(plain, **FOUR):
        expected = predicted(plain, received(x))
    model = of_class(cls, make)
    alone = predicted(model, x)
    with mmdiscard.attach(model, **ONE):
        assert torch.equal(predicted(model, x), alone)
    with mmdiscard.attach(model, **FOUR) as ensemble:
        assert torch.equal(predicted(model, x), expected)
        states = ensemble.last.states
        assert ensemble.evaluate(x, states).logits.shape[:2] == (2, 4)


def test_what_a_hook_of_the_user_does_to_the_images_is_done_once():
    x, plain = images(2), segmentor()
    with mmdiscard.attach(plain, **FOUR):
        expected = predicted(plain, x * 0.5 + 1)
    model = segmentor()
    model.backbone.register_forward_pre_hook(lambda module, args: (args[0] * 0.5 + 1,))
    with mmdiscard.attach(model, **FOUR):
        assert torch.equal(predicted(model, x), expected)


def test_an_image_that_is_enlarged_first_is_displaced_in_its_own_pixels():
    model = of_class(Enlarged, segmentor)
    x = images(1)
    alone = predicted(model, x)
    with mmdiscard.attach(model, **ONE):
        assert torch.equal(predicted(model, x), alone)
    settings = FOUR | dict(
        search=dict(type='FixedStates', states=[[3]]),
        aggregator=dict(type='AverageAggregator', on='logits', align='exact'),
    )
    canvas = images(1)
    shift = 2  # the deepest group moves 4 pixels of the enlarged image
    moved = torch.zeros_like(canvas)
    moved[..., :-shift, :-shift] = canvas[..., shift:, shift:]
    expected = predicted(model, moved)[..., :-shift, :-shift]
    with mmdiscard.attach(model, **settings) as ensemble:
        found = predicted(model, canvas)[..., shift:, shift:]
        assert ensemble.groups[0].stride == (4, 4)
    h, w = (size // 3 for size in found.shape[-2:])
    middle = (..., slice(h, -h), slice(w, -w))
    effect = (predicted(model, canvas)[..., shift:, shift:] - expected)[middle].abs().mean()
    assert (found - expected)[middle].abs().mean() < 0.5 * effect


def test_post_processing_of_its_own_follows_the_merged_logits():
    model, x = of_class(WithPrior, segmentor), images(2)
    plain = segmentor()
    with mmdiscard.attach(plain, **FOUR):
        merged = predicted(plain, x)
    with mmdiscard.attach(model, **FOUR):
        expected = merged * torch.linspace(0.5, 2, merged.shape[1]).view(-1, 1, 1)
        torch.testing.assert_close(predicted(model, x), expected)


def test_a_classifiers_own_predict_is_called():
    model, x = of_class(PriorCorrected, classifier), images(2)
    plain = classifier()
    with mmdiscard.attach(plain, **FOUR):
        merged = predicted(plain, 2 * x)
    with mmdiscard.attach(model, **FOUR):
        expected = merged * torch.linspace(0.2, 2, merged.shape[1])
        assert torch.equal(predicted(model, x), expected)


# ------------------------------------------------------------------------------------- refused
class Siamese(EncoderDecoder):
    def extract_feat(self, inputs):
        first, second = super().extract_feat(inputs), super().extract_feat(inputs.flip(-1))
        return tuple(a - b for a, b in zip(first, second, strict=True))


class Bypassing(EncoderDecoder):
    def inference(self, inputs, batch_img_metas):
        return self.decode_head.predict(self.extract_feat(inputs), batch_img_metas, self.test_cfg)


class SecondEncoder(EncoderDecoder):
    def encode_decode(self, inputs, batch_img_metas):
        return super().encode_decode(inputs, batch_img_metas) + self.other(inputs)


class HookedSkip(EncoderDecoder):
    def extract_feat(self, inputs):
        levels = super().extract_feat(inputs)
        skip = nn.functional.adaptive_avg_pool2d(
            self.low.mean(1, keepdim=True), levels[-1].shape[2:]
        )
        return (*levels[:-1], levels[-1] + skip)


class ReadsFeatures(LinearClsHead):
    def predict(self, feats, data_samples=None):
        samples = super().predict(feats, data_samples)
        for sample, feature in zip(samples, feats[-1], strict=True):
            sample.set_pred_score(sample.pred_score + feature.mean())
        return samples


def hooked() -> nn.Module:
    model = of_class(HookedSkip, segmentor)
    model.backbone.layer1.register_forward_hook(lambda m, i, o: vars(model).update(low=o))
    return model


def reading() -> nn.Module:
    model = classifier()
    model.head.__class__ = ReadsFeatures
    return model


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: of_class(Siamese, segmentor), 'calls its backbone 2 times'),
        (lambda: of_class(Bypassing, segmentor), 'does not call `encode_decode`'),
        (
            lambda: of_class(SecondEncoder, segmentor, other=nn.Conv2d(3, 5, 3, padding=1)),
            'more than the output levels',
        ),
        (hooked, 'more than the output levels'),
        (reading, 'does not give what the model gives without'),
    ],
    ids=['Siamese', 'bypassing', 'second encoder', 'hooked skip', 'head that reads features'],
)
def test_models_that_cannot_be_right_are_refused(make, message):
    model, x = make(), images(2)
    plain = predicted(model, x)
    before = {name: sorted(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(MMDiscardError, match=message) as error:
        mmdiscard.attach(model, **FOUR)
    assert '\n' not in str(error.value)
    assert torch.equal(predicted(model, x), plain)
    assert {name: sorted(vars(m)) for name, m in model.named_modules() if 'low' not in vars(m)} == {
        name: keys for name, keys in before.items() if 'low' not in keys
    }


class Mosaic(nn.Module):
    """A trunk behind a pattern that repeats every 8 pixels, as that of a colour filter array does.

    Shifts by 8 pixels change nothing, those by less do.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.pattern = nn.Parameter(
            torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3))
        )

    def forward(self, x):
        height, width = (size // 8 for size in x.shape[2:])
        return self.trunk(x * self.pattern.repeat(1, height, width))


def test_a_model_that_does_not_translate_is_refused():
    model = segmentor()
    model.backbone = Mosaic(model.backbone)
    with pytest.raises(MMDiscardError, match='does not act like translating'):
        mmdiscard.attach(model, **FOUR)
    mmdiscard.attach(model, **FOUR, self_test=False).detach()


# -------------------------------------------------------------------------- nothing is disturbed
def test_random_state_buffers_and_modes_come_back():
    model = segmentor()
    model.train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = {name: module.training for name, module in model.named_modules()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with mmdiscard.attach(model, **FOUR):
        assert torch.equal(torch.rand(3), expected)
        assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


# ------------------------------------------------------------------- wrappers, compiled, no head
class ImageWrapper(nn.Module):
    """Calls its model on images, as TTA libraries do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return (self.model(x) + self.model(x.flip(-1)).flip(-1)) / 2


@pytest.mark.parametrize('make', [segmentor, classifier])
def test_wrappers_that_call_the_model_on_images_are_refused(make):
    with pytest.raises(MMDiscardError, match='calls its model as `model\\(images\\)`'):
        mmdiscard.attach(ImageWrapper(make()))


def test_a_classifier_without_a_head_is_refused():
    model = classifier()
    model.head = None
    with pytest.raises(MMDiscardError, match='has no head'):
        mmdiscard.attach(model)


def test_a_compiled_model_is_refused_with_the_cure():
    with pytest.raises(MMDiscardError, match='_orig_mod'):
        mmdiscard.attach(torch.compile(segmentor(), backend='eager'))


@pytest.mark.parametrize('before', [True, False])
def test_a_compiled_backbone_gives_the_states_of_an_eager_one(before):
    model, x = segmentor(), images(2)
    with mmdiscard.attach(model, **FOUR):
        expected = predicted(model, x)
    plain = predicted(model, x)
    model.backbone = torch.compile(model.backbone, backend='eager')
    if before:
        predicted(model, x)
    with mmdiscard.attach(model, **FOUR):
        torch.testing.assert_close(predicted(model, x), expected)
    torch.testing.assert_close(predicted(model, x), plain)


# -------------------------------------------------------------------------- entropy by head kind
def test_labels_of_a_multi_label_head_are_independent():
    model = classifier(head=dict(type='MultiLabelLinearClsHead', num_classes=4, in_channels=32))
    logits = torch.tensor([[9.0, 9.0, -9.0, -9.0], [0.1, 0.0, -0.1, 0.1]])
    p = logits.double().sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean(1) / torch.tensor(2.0).log()
    with mmdiscard.attach(model, dict(groups='inner')) as ensemble:
        for outputs in ensemble.explore(images(2), ensemble.space.default(1)):
            outputs.logits = logits
            torch.testing.assert_close(outputs.entropy.double(), entropy)
            torch.testing.assert_close(outputs.margin.double(), (2 * p - 1).abs().mean(1))
            assert ensemble.aggregator.weights(outputs)[0] > 0.99 > 0.1 > outputs.entropy[0]
        predicted(model, images(2))


@pytest.mark.parametrize('use_sigmoid', [True, False])
def test_classes_of_a_sigmoid_segmentor_are_independent(use_sigmoid):
    loss = dict(type='CrossEntropyLoss', use_sigmoid=use_sigmoid)
    model = segmentor(head=FCN_HEAD | dict(loss_decode=loss))
    with mmdiscard.attach(model, **FOUR) as ensemble:
        assert ensemble.adapter.independent_classes is use_sigmoid
        (outputs,) = ensemble.explore(images(1), ensemble.space.default(1))
        logits = outputs.logits.double()
        if use_sigmoid:
            p = logits.sigmoid()
            expected = -(p * p.log() + (1 - p) * (1 - p).log()).mean(1) / torch.tensor(2.0).log()
        else:
            p = logits.softmax(1)
            expected = -(p * p.log()).sum(1) / torch.tensor(5.0).log()
        torch.testing.assert_close(outputs.entropies.double(), expected, atol=1e-5, rtol=1e-4)
