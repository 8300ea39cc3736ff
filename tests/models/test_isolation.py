"""One attached model in several threads, copied, saved, patched by its user, or half attached."""

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
import torch
from small_models import classifier, images, mit_segmentor, segmentor
from torch import nn

import mmdiscard
from mmdiscard import MMDiscardError
from mmdiscard.models import ensemble_of

SPREAD = dict(subsampling=dict(groups=[-1]), search=dict(type='SpreadStates', budget=4))
GREEDY = dict(search=dict(type='GreedySearch', budget=4))


@torch.no_grad()
def predicted(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    samples = model.predict(inputs)
    return torch.stack([s.seg_logits.data if 'seg_logits' in s else s.pred_score for s in samples])


@pytest.mark.parametrize(
    ('make', 'settings'),
    [(segmentor, SPREAD), (mit_segmentor, GREEDY), (classifier, GREEDY)],
)
def test_threads_predict_as_one_thread_does(make, settings):
    model = make()
    inputs = [images(1 + job % 2, seed=job) for job in range(16)]
    with mmdiscard.attach(model, **settings):
        expected = [predicted(model, x) for x in inputs]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda job: predicted(model, inputs[job % 16]), range(64)))
    assert all(torch.equal(found[job], expected[job % 16]) for job in range(64))


def test_a_plain_pass_beside_a_prediction_stays_plain():
    model, x = segmentor(), images(1)
    plain = model.extract_feat(x)[-1]
    with mmdiscard.attach(model, **SPREAD), ThreadPoolExecutor(4) as pool:
        predictions = pool.map(lambda seed: predicted(model, images(1, seed=seed)), range(8))
        features = list(pool.map(lambda _: model.extract_feat(x)[-1], range(16)))
        list(predictions)
    assert all(torch.equal(found, plain) for found in features)


def saved_and_loaded(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize('make', [segmentor, classifier])
@pytest.mark.parametrize('copied', [copy.deepcopy, saved_and_loaded])
def test_a_copy_of_an_attached_model_is_plain_and_its_own(make, copied):
    model, x = make(), images(2)
    plain = predicted(model, x)
    with mmdiscard.attach(model, **GREEDY):
        merged = predicted(model, x)
        other = copied(model)
        assert torch.equal(predicted(other, x), plain)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        assert not torch.equal(predicted(other, x), plain)
        assert torch.equal(predicted(model, x), merged)
        assert ensemble_of(other) is None
        with mmdiscard.attach(other, **GREEDY):
            predicted(other, x)
    assert torch.equal(predicted(model, x), plain)
    assert not torch.equal(predicted(copy.deepcopy(other), x), plain)


@pytest.mark.parametrize('name', ['encode_decode', 'predict', 'backbone.forward'])
def test_detaching_puts_back_what_the_user_had_put_there(name):
    model, x = segmentor(), images(2)
    *path, method = name.split('.')
    module = model.get_submodule('.'.join(path))
    own = getattr(module, method)
    patch = lambda *args, **kwargs: own(*args, **kwargs)  # noqa: E731
    setattr(module, method, patch)
    before = predicted(model, x)
    with mmdiscard.attach(model, search=dict(type='SpreadStates', budget=1)):
        assert torch.equal(predicted(model, x), before)
    assert vars(module)[method] is patch
    assert torch.equal(predicted(model, x), before)


def test_the_users_own_decoding_is_applied_to_every_state():
    model, x = segmentor(), images(2)
    with mmdiscard.attach(model, **SPREAD):
        merged = predicted(model, x)
    decode = model.encode_decode
    model.encode_decode = lambda *args: decode(*args) * 2
    with mmdiscard.attach(model, **SPREAD):
        torch.testing.assert_close(predicted(model, x), 2 * merged)


def test_a_patch_of_the_user_over_an_attached_model_stays():
    model, x = segmentor(), images(2)
    plain = predicted(model, x)
    ensemble = mmdiscard.attach(model, **SPREAD)
    attached = model.encode_decode
    model.encode_decode = lambda *args: attached(*args) + 1
    ensemble.detach()
    assert torch.equal(predicted(model, x), plain + 1)


@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_two_models_with_one_backbone_are_detached_in_any_order(order):
    models = [segmentor(), segmentor()]
    models[1].backbone = models[0].backbone
    models[1].decode_head.conv_seg.bias.data += 1
    x = images(2)
    plain = [predicted(model, x) for model in models]
    alone = []
    for model in models:
        with mmdiscard.attach(model, **SPREAD):
            alone.append(predicted(model, x))
    ensembles = [mmdiscard.attach(model, **SPREAD) for model in models]
    for model, expected in zip(models, alone, strict=True):
        assert torch.equal(predicted(model, x), expected)
    first, second = order
    ensembles[first].detach()
    assert torch.equal(predicted(models[first], x), plain[first])
    assert torch.equal(predicted(models[second], x), alone[second])
    ensembles[second].detach()
    for model, expected in zip(models, plain, strict=True):
        assert torch.equal(predicted(model, x), expected)
    assert 'forward' not in vars(models[0].backbone)
    assert not any(module._forward_hooks for module in models[0].modules())


class _Scripted(nn.Module):
    """A backbone with a scripted part in it, which takes no hooks."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.trunk = backbone
        self.scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.ReLU()))

    def forward(self, x):
        return self.trunk(self.scripted(x))


def test_attaching_that_fails_leaves_the_model_as_it_was(monkeypatch):
    model, x = segmentor(), images(2)
    plain, names = predicted(model, x), set(vars(model))

    def fails(*args):
        raise RuntimeError('halfway')

    monkeypatch.setattr(import_module('mmdiscard.models.attach'), 'Ensemble', fails)
    with pytest.raises(RuntimeError, match='halfway'):
        mmdiscard.attach(model, **SPREAD)
    assert set(vars(model)) == names and 'forward' not in vars(model.backbone)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(predicted(model, x), plain)


def test_a_scripted_part_is_right_or_refused_and_the_model_stays_as_it_was():
    model, x = segmentor(), images(2)
    model.backbone = _Scripted(model.backbone)
    plain = predicted(model, x)
    try:
        mmdiscard.attach(model, search=dict(type='SpreadStates', budget=2)).detach()
    except MMDiscardError as error:
        assert '\n' not in str(error)
    assert torch.equal(predicted(model, x), plain)
