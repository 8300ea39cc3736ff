import pytest
import torch
from mmengine.model import BaseTTAModel
from small_models import FCN_HEAD, classifier, segmentor
from torch import nn

from mmdiscard import MMDiscardError
from mmdiscard.engine import check_checkpoint


class TTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


@pytest.fixture
def model():
    return classifier()


@pytest.mark.parametrize(
    'wrap', [lambda m: m, nn.DataParallel, TTA], ids=['bare', 'wrapped', 'TTA']
)
@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('nested', [False, True], ids=['plain', 'nested'])
def test_the_checkpoint_of_the_model_passes(model, wrap, prefix, nested):
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    check_checkpoint(wrap(model), dict(state_dict=weights, meta={}) if nested else weights)


def test_what_a_prediction_does_not_use_may_be_absent_or_besides():
    head = FCN_HEAD | dict(in_index=2, in_channels=16)
    model = segmentor(auxiliary_head=head)
    weights = {
        key: value
        for key, value in model.state_dict().items()
        if not key.startswith('auxiliary_head.') and not key.endswith('num_batches_tracked')
    }
    assert len(weights) < len(model.state_dict())
    check_checkpoint(model, weights | dict(extra=torch.zeros(1)))


def test_absent_weights_are_counted_and_the_first_named(model):
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith('backbone.layer1')}
    absent = [
        key
        for key in model.state_dict()
        if key.startswith('backbone.layer1') and not key.endswith('num_batches_tracked')
    ]
    with pytest.raises(MMDiscardError) as caught:
        check_checkpoint(model, weights)
    message = str(caught.value)
    assert (
        f'{len(absent)} weights absent: {", ".join(absent[:3])} and {len(absent) - 3} more'
        in message
    )
    assert 'of another shape' not in message and message.endswith('trained with this config')


def test_weights_of_another_shape_are_shown_with_both(model):
    with pytest.raises(MMDiscardError) as caught:
        check_checkpoint(model, classifier(num_classes=3).state_dict())
    assert '2 weights of another shape' in str(caught.value)
    assert 'head.fc.weight ((3, 32) in the checkpoint, (7, 32) in the model)' in str(caught.value)


def test_the_checkpoint_of_another_model_is_refused(model):
    with pytest.raises(MMDiscardError, match='does not belong to this model: .* absent'):
        check_checkpoint(model, segmentor().state_dict())
