"""More ways in which models of users differ; README.md beside this file lists them."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmpretrain.models import ImageClassifier
from mmseg.models import EncoderDecoder
from small_models import classifier, images, mit_segmentor, segmentor
from test_self_test import FOUR, ONE, of_class, predicted
from torch import nn
from torch.nn import functional as F

import mmdiscard
from mmdiscard import MMDiscardError


# --------------------------------------------------------------------------- what models assume
class FlipsItself(EncoderDecoder):
    def inference(self, inputs, batch_img_metas):
        mirrored = super().inference(inputs.flip(-1), batch_img_metas).flip(-1)
        return (super().inference(inputs, batch_img_metas) + mirrored) / 2


class HalfPrecisionInput(EncoderDecoder):
    def extract_feat(self, inputs):
        return super().extract_feat(inputs.half().float())


class LearntInput(EncoderDecoder):
    def extract_feat(self, inputs):
        return super().extract_feat(self.mix(inputs))


class KeywordContext(EncoderDecoder):
    def encode_decode(self, inputs, batch_img_metas):
        levels = self.extract_feat(inputs=inputs)
        return self.decode_head.predict(levels, batch_img_metas, self.test_cfg)


class ScaledScores(ImageClassifier):
    def predict(self, inputs, data_samples=None, temperature=2.0, **kwargs):
        samples = super().predict(inputs, data_samples, **kwargs)
        for sample in samples:
            sample.set_pred_score(sample.pred_score / temperature)
        return samples


@pytest.mark.parametrize(
    ('model', 'x'),
    [
        (lambda: of_class(FlipsItself, segmentor), images(2)),
        (lambda: of_class(HalfPrecisionInput, segmentor), images(2)),
        (lambda: of_class(LearntInput, segmentor, mix=nn.Conv2d(3, 3, 1)), images(2)),
        (lambda: of_class(KeywordContext, mit_segmentor), images(2)),
        (lambda: of_class(ScaledScores, classifier), images(2)),
    ],
    ids=['flips itself', 'half input', 'learnt input', 'keywords', 'scaled scores'],
)
def test_right_with_one_state_and_with_four(model, x):
    model = model()
    plain = predicted(model, x)
    with mmdiscard.attach(model, **ONE):
        assert torch.equal(predicted(model, x), plain)
    default = FOUR | dict(search=dict(type='FixedStates', states=[[0]]))
    with mmdiscard.attach(model, **default):
        assert torch.equal(predicted(model, x), plain)
    with mmdiscard.attach(model, **FOUR):
        assert not torch.equal(predicted(model, x), plain)
    assert torch.equal(predicted(model, x), plain)


def test_a_model_that_flips_by_itself_merges_states_in_both_views():
    model, x = of_class(FlipsItself, segmentor), images(2)
    plain = segmentor()
    with mmdiscard.attach(plain, **FOUR):
        expected = (predicted(plain, x) + predicted(plain, x.flip(-1)).flip(-1)) / 2
    with mmdiscard.attach(model, **FOUR):
        torch.testing.assert_close(predicted(model, x), expected)


class TwoScales(EncoderDecoder):
    def encode_decode(self, inputs, batch_img_metas):
        small = super().encode_decode(F.interpolate(inputs, scale_factor=0.5), batch_img_metas)
        return super().encode_decode(inputs, batch_img_metas) + small


class GuidedByImage(EncoderDecoder):
    def extract_feat(self, inputs):
        self.guide = inputs.mean(1, keepdim=True)
        return super().extract_feat(inputs)

    def encode_decode(self, inputs, batch_img_metas):
        return super().encode_decode(inputs, batch_img_metas) * self.guide


class CountsCalls(EncoderDecoder):
    def encode_decode(self, inputs, batch_img_metas):
        self.calls += 1
        return super().encode_decode(inputs, batch_img_metas) * self.calls


class DropsInTest(EncoderDecoder):
    def encode_decode(self, inputs, batch_img_metas):
        return F.dropout(super().encode_decode(inputs, batch_img_metas), 0.5, training=True)


@pytest.mark.parametrize(
    'model',
    [
        lambda: of_class(TwoScales, segmentor),
        lambda: of_class(GuidedByImage, segmentor),
        lambda: of_class(CountsCalls, segmentor, calls=nn.Parameter(torch.ones(()), False)),
    ],
    ids=['two scales', 'guided by the image', 'counts its calls'],
)
def test_refused_in_one_line(model):
    with pytest.raises(MMDiscardError) as error:
        mmdiscard.attach(model(), **FOUR)
    assert '\n' not in str(error.value)


def test_a_model_that_draws_random_numbers_in_test_is_attached_to():
    model = of_class(DropsInTest, segmentor)
    state = torch.random.get_rng_state()
    with mmdiscard.attach(model, **ONE):
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(3)
        found = predicted(model, images(1))
    torch.manual_seed(3)
    assert torch.equal(found, predicted(model, images(1)))


# ------------------------------------------------------------------------- state of its own
def test_a_moving_average_of_an_attached_model_is_plain():
    model, x = segmentor(), images(2)
    plain = predicted(model, x)
    with mmdiscard.attach(model, **FOUR):
        average = ExponentialMovingAverage(model)
        average.update_parameters(model)
        assert torch.equal(predicted(average.module, x), plain)


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_backbone_is_plain(copied):
    model, x = segmentor(), images(2)
    plain = model.backbone(x)[-1]
    with mmdiscard.attach(model, **FOUR):
        assert torch.equal(copied(model.backbone)(x)[-1], plain)
        other = segmentor()
        other.backbone = copied(model.backbone)
        with mmdiscard.attach(other, **FOUR):
            assert torch.equal(predicted(other, x), predicted(model, x))


def test_attached_in_one_thread_and_used_in_another():
    model, x = classifier(), images(2)
    with mmdiscard.attach(model):
        expected = predicted(model, x)
    with ThreadPoolExecutor(1) as pool:
        ensemble = pool.submit(mmdiscard.attach, model).result()
    assert torch.equal(predicted(model, x), expected)
    ensemble.detach()


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_a_prediction_after_one_that_broke_off_is_right(error):
    model, x = segmentor(), images(2)

    def fails(module, args, output):
        if fails.armed:
            raise error('now')

    model.decode_head.conv_seg.register_forward_hook(fails)
    fails.armed = False
    with mmdiscard.attach(model, **FOUR):
        expected = predicted(model, x)
        fails.armed = True
        with pytest.raises(error):
            predicted(model, x)
        fails.armed = False
        assert torch.equal(predicted(model, x), expected)
    assert 'forward' not in vars(model.backbone)


def test_exploring_that_is_not_finished_disturbs_nothing():
    model, x = segmentor(), images(2)
    with mmdiscard.attach(model, **FOUR) as ensemble:
        expected = predicted(model, x)
        left = ensemble.explore(x, torch.tensor([[0], [1], [2]]))
        next(left).logits  # noqa: B018
        assert torch.equal(predicted(model, x), expected)


def test_detached_in_another_order_than_attached():
    models = [classifier(), classifier()]
    models[1].head = models[0].head
    x = images(2)
    plain = [predicted(model, x) for model in models]
    first, second = (mmdiscard.attach(model) for model in models)
    first.detach()
    second.detach()
    assert all(torch.equal(predicted(m, x), p) for m, p in zip(models, plain, strict=True))
    assert 'forward' not in vars(models[0].head)


def test_the_state_dict_of_an_attached_model_loads_strictly():
    model, other = segmentor(), segmentor()
    with mmdiscard.attach(model, **FOUR):
        other.load_state_dict(model.state_dict(), strict=True)
        model.load_state_dict(other.state_dict(), strict=True)


def test_training_an_attached_model_is_plain():
    model, x = segmentor(), images(2)
    features = model.extract_feat(x)[-1]
    with mmdiscard.attach(model, **FOUR):
        assert torch.equal(model.extract_feat(x)[-1], features)
        low = model(x, mode='tensor')
    assert torch.equal(model(x, mode='tensor'), low)
