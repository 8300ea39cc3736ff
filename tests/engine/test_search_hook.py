"""The hook inside a real Runner, on image files of a real dataset."""

import copy
import json
import logging
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from small_models import SMALL_RESNET, classifier, classifier_config

import mmdiscard
from mmdiscard import MMDiscardError
from mmdiscard.engine import SubsamplingSearchHook

IMAGES = 5
CLASSES = [f'c{index}' for index in range(7)]
GREEDY = dict(type='GreedySearch', budget=4)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder of five images with their labels."""
    root = tmp_path_factory.mktemp('data')
    noise = np.random.RandomState(0).randint(0, 256, (IMAGES, 64, 64, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).save(root / f'{index}.png')
    labels = [dict(img_path=f'{index}.png', gt_label=index) for index in range(IMAGES)]
    dump(dict(metainfo=dict(classes=CLASSES), data_list=labels), str(root / 'labels.json'))
    return root


@pytest.fixture
def make_runner(data, tmp_path):
    """Builds a Runner with the hook; keyword arguments are the hook's."""

    def make(tta=None, load_from=None, training=False, compile=None, **hook):
        pack = dict(type='PackInputs')
        views = [[dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)], [pack]]
        last = dict(type='TestTimeAug', transforms=views) if tta else pack
        dataset = dict(
            type='BaseDataset',
            data_root=str(data),
            data_prefix='',
            ann_file='labels.json',
            pipeline=[dict(type='LoadImageFromFile'), last],
        )
        loader = dict(
            batch_size=2,
            num_workers=0,
            dataset=dataset,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        )
        if tta:
            loader['collate_fn'] = dict(type='pseudo_collate')
        model = classifier_config(init_cfg=None)
        config = dict(
            model=dict(type=tta, module=model) if tta else model,
            default_scope='mmpretrain',
            work_dir=str(tmp_path),
            test_dataloader=loader,
            test_cfg=dict(),
            test_evaluator=dict(type='Accuracy'),
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=dict(type='Accuracy'),
            custom_hooks=[dict(type='mmdiscard.SubsamplingSearchHook', **hook)],
            load_from=load_from and str(load_from),
            log_level='INFO',
            experiment_name=tmp_path.name,
        )
        if training:
            config |= dict(
                train_dataloader=copy.deepcopy(loader),
                train_cfg=dict(by_epoch=True, max_epochs=2),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
            )
        if compile:
            config['compile'] = compile
        runner = Runner.from_cfg(Config(config))
        model = getattr(runner.model, 'module', runner.model)
        model.load_state_dict(classifier().state_dict())
        return runner

    return make


@pytest.fixture
def logged(monkeypatch):
    """Everything that any runner logs, as one text."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    original = Runner.build_logger

    def build_logger(self, *args, **kwargs):
        logger = original(self, *args, **kwargs)
        logger.addHandler(handler)
        return logger

    monkeypatch.setattr(Runner, 'build_logger', build_logger)
    return lines


class StopOnce(Hook):
    """Ctrl-C after the first batch of the first test."""

    stopped = False

    def after_test_iter(self, runner, **kwargs):
        if not self.stopped:
            self.stopped = True
            raise KeyboardInterrupt


class Bypass(Hook):
    """Gives the attached model its class's own `predict` back."""

    priority = 'LOWEST'

    def before_test(self, runner):
        runner.model.predict = MethodType(type(runner.model).predict, runner.model)


def dumped(runner):
    lines = (Path(runner.log_dir) / 'states.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    'tta, passes', [(None, 1), ('mmdiscard.DiscardClsTTA', 2), ('AverageClsScoreTTA', 2)]
)
def test_a_test_run_searches_reports_dumps_and_detaches(make_runner, logged, tta, passes):
    runner = make_runner(tta, search=GREEDY, subsampling=dict(groups='all'), dump='states.jsonl')
    assert 0 <= runner.test()['accuracy/top1'] <= 100
    model = getattr(runner.model, 'module', runner.model)
    assert 'forward' not in vars(model.backbone) and 'predict' not in vars(model)

    text = '\n'.join(logged)
    assert 'searching 4 states over conv1, maxpool, layer2.0, layer3.0, layer4.0' in text
    assert f'images: {IMAGES}, forward passes without mmdiscard: {IMAGES * passes}' in text
    assert 'states per image: 4.00' in text

    records = dumped(runner)
    assert [record['img_path'].rsplit('/')[-1] for record in records] == [
        f'{index}.png' for index in range(IMAGES)
    ]
    for record in records:
        assert len(record['passes']) == passes
        for entry in record['passes']:
            assert np.shape(entry['states']) == (4, 5) and np.shape(entry['scores']) == (4,)
            assert entry['states'][0] == [0] * 5


def test_a_dump_of_known_states_has_no_scores(make_runner, logged):
    runner = make_runner(search=dict(type='SpreadStates', budget=2), dump='states.jsonl')
    runner.test()
    assert 'states are the same for every image' in '\n'.join(logged)
    assert {entry['scores'] for record in dumped(runner) for entry in record['passes']} == {None}


def test_the_predictions_are_those_of_the_attached_model(make_runner, data):
    def tested(budget):
        runner, heard = make_runner(search=dict(type='GreedySearch', budget=budget)), []
        runner.test_evaluator.process = lambda data_samples, **_: heard.extend(data_samples)
        runner.test_evaluator.evaluate = lambda size: {}
        runner.test()
        return torch.stack([sample.pred_score for sample in heard])

    pixels = [np.asarray(Image.open(data / f'{index}.png'))[..., ::-1] for index in range(IMAGES)]
    batch = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) - 127.5) / 127.5
    model = classifier()
    with torch.no_grad():
        torch.testing.assert_close(tested(1), model(batch, mode='tensor').softmax(1))
        with mmdiscard.attach(model, search=GREEDY) as ensemble:
            torch.testing.assert_close(tested(4), ensemble.predict(batch).softmax(1))


@pytest.mark.parametrize('val', [False, True])
def test_validation_searches_if_asked(make_runner, logged, val):
    runner = make_runner(search=GREEDY, val=val)
    runner.val()
    assert ('mmdiscard summary' in '\n'.join(logged)) == val
    assert 'forward' not in vars(runner.model.backbone)


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(search=dict(type='GreedySearch', budget=0)), 'at least 1; got 0'),
        (dict(search=dict(type='Hunt')), "unknown search 'Hunt'"),
        (dict(search=dict(GREEDY, criterion=dict(type='Luck'))), "unknown criterion 'Luck'"),
        (dict(aggregator=dict(type='Sum')), "unknown aggregator 'Sum'"),
        (dict(aggregator=dict(type='AverageAggregator', align='best')), "unknown alignment 'best'"),
    ],
)
def test_settings_that_are_wrong_in_themselves_are_refused_when_built(settings, words):
    with pytest.raises(MMDiscardError, match=words):
        SubsamplingSearchHook(**settings)


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(subsampling=dict(groups=['layer9'])), "'layer9'; choose from"),
        (dict(search=dict(type='GreedySearch', budget=65)), '65 is more than the 64 states'),
        (
            dict(aggregator=dict(type='AverageAggregator', on='logits', align='exact')),
            'a classifier has none',
        ),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_before_an_image_is_predicted(
    make_runner, monkeypatch, settings, words
):
    runner = make_runner(**settings)
    read = []
    monkeypatch.setattr(
        type(runner.test_dataloader.dataset), '__getitem__', lambda self, index: read.append(index)
    )
    with pytest.raises(MMDiscardError, match=words):
        runner.test()
    assert read == [0]  # for its size


def test_a_checkpoint_of_another_model_is_refused(make_runner, tmp_path):
    other = classifier(backbone=SMALL_RESNET | dict(base_channels=8), channels=64)
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict=other.state_dict()), path)
    with pytest.raises(MMDiscardError, match='does not belong to this model'):
        make_runner(load_from=path).test()


def test_a_checkpoint_of_the_model_is_taken(make_runner, tmp_path):
    path = tmp_path / 'right.pth'
    torch.save(dict(state_dict=classifier().state_dict()), path)
    assert 'accuracy/top1' in make_runner(load_from=path, search=GREEDY).test()


def test_a_test_after_an_interrupted_one_runs(make_runner, logged):
    runner = make_runner(search=GREEDY, dump='states.jsonl')
    runner.register_hook(StopOnce(), priority='LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.test()
    runner.test()
    assert f'images: {IMAGES}, ' in '\n'.join(logged)  # those of the second test alone
    assert len(dumped(runner)) == IMAGES
    assert 'predict' not in vars(runner.model)


def test_another_hook_takes_over_what_an_interrupted_test_left(make_runner):
    first, second = make_runner(search=GREEDY), make_runner(search=GREEDY)
    first.register_hook(StopOnce(), priority='LOWEST')
    with pytest.raises(KeyboardInterrupt):
        first.test()
    second.model = first.model
    assert 'accuracy/top1' in second.test()


def test_an_ensemble_of_the_user_is_left_alone(make_runner):
    runner = make_runner(search=GREEDY)
    with mmdiscard.attach(runner.model, search=GREEDY) as ensemble:
        with pytest.raises(MMDiscardError, match='attached to this model already'):
            runner.test()
        ensemble.predict(torch.zeros(1, 3, 64, 64))
        assert ensemble.last is not None


def test_predictions_that_pass_by_the_ensemble_are_reported(make_runner, logged):
    runner, last = make_runner(search=GREEDY), []
    runner.register_hook(Bypass())
    hook = next(hook for hook in runner.hooks if isinstance(hook, SubsamplingSearchHook))
    after = hook.after_test_iter
    hook.after_test_iter = lambda *args, **kwargs: (
        last.append(hook.ensemble.last),
        after(*args, **kwargs),
    )
    runner.test()
    assert 'no state was used for any image' in '\n'.join(logged)
    assert last == [None] * 3


def test_a_budget_of_one_is_reported_as_the_plain_model(make_runner, logged):
    make_runner(search=dict(type='GreedySearch', budget=1)).test()
    assert 'no state was used but the default one' in '\n'.join(logged)


@pytest.mark.parametrize('compiled', [dict(backend='eager'), None])
def test_validation_in_a_compiled_training_searches(make_runner, logged, compiled):
    runner = make_runner(search=GREEDY, val=True, training=True, compile=compiled)
    runner.train()
    text = '\n'.join(logged)
    assert text.count('mmdiscard summary') == 2 and 'states per image: 4.00' in text
    assert ('has been "compiled"' in text) == bool(compiled)
    assert 'predict' not in vars(runner.model)


def test_two_hooks_are_refused(make_runner):
    runner = make_runner(search=GREEDY)
    runner.register_hook(SubsamplingSearchHook())
    with pytest.raises(MMDiscardError, match='several SubsamplingSearchHooks'):
        runner.test()
