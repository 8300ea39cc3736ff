"""`--states`, `--cost`, `--groups` and `--where` of `tools/test.py`."""

import re

import pytest
from integration.layouts import write_ade20k, write_checkpoint
from mmengine.config import Config

from mmdiscard import MMDiscardError
from mmdiscard import test as tool
from mmdiscard.engine.search_flags import parse_groups

FCN = 'mmseg::fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py'
SMALL = [
    'model.backbone.depth=18',
    'model.backbone.stem_channels=4',
    'model.backbone.base_channels=4',
    'model.decode_head.in_channels=32',
    'model.decode_head.in_index=3',
    'model.decode_head.channels=4',
    'model.auxiliary_head=None',
    'test_dataloader.num_workers=0',
    'test_dataloader.dataset.pipeline.1.scale=(128,64)',
]
OWN_HOOK = """
default_scope = 'mmpretrain'
custom_imports = dict(imports='mmengine', allow_failed_imports=False)
custom_hooks = [dict(type='EMAHook'), dict(type='mmdiscard.SubsamplingSearchHook', {settings})]
test_cfg = test_evaluator = dict()
test_dataloader = dict(dataset=dict(type='ImageNet'))
"""
GREEDY = "search=dict(type='GreedySearch', budget=10, shallow_first=True), subsampling=dict("
GREEDY += "groups='inner', input_size=(96, 96)), aggregator=dict(type='AverageAggregator')"


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    cfg = Config(dict(default_scope='mmpretrain', model=dict(type='ImageClassifier')))
    cfg.model.backbone = dict(type='LeNet5')
    return str(write_checkpoint(cfg, tmp_path_factory.mktemp('weights') / 'model.pth'))


@pytest.fixture
def make(tmp_path, checkpoint, monkeypatch):
    """The config that flags lead to, beginning with one of these hook settings."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)

    def make(settings, *flags):
        path = tmp_path / 'config.py'
        path.write_text(OWN_HOOK.format(settings=settings))
        return tool.make_config(tool.parse_args([str(path), checkpoint, *flags]))

    return make


# -------------------------------------------------------------------------------- a hook is there
@pytest.mark.parametrize(
    ('flags', 'budget'),
    [
        (['--states', '2'], 2),
        (['--cost', '1.5'], dict(states=None, cost=1.5)),
        (['--states', '4', '--cost', '1.5'], dict(states=4, cost=1.5)),
        (['--groups', 'all'], 10),
    ],
)
def test_a_flag_replaces_the_one_setting_that_it_names(make, flags, budget):
    ema, hook = make(GREEDY, *flags).custom_hooks
    assert ema.type == 'EMAHook'
    assert hook.search == dict(type='GreedySearch', budget=budget, shallow_first=True)
    groups = 'all' if '--groups' in flags else 'inner'
    assert hook.subsampling == dict(groups=groups, input_size=(96, 96))
    assert hook.aggregator == dict(type='AverageAggregator')


def test_a_hook_without_settings_gets_spread_states(make):
    hook = make('', '--states', '3', '--groups=-1').custom_hooks[1]
    assert hook.search == dict(type='SpreadStates', budget=3)
    assert hook.subsampling == dict(groups=[-1])


@pytest.mark.parametrize(
    ('settings', 'flags', 'where'),
    [
        ('', '--where unsure', 'unsure'),
        ('', '--where unsure --cost 1.4', dict(cost=1.4)),
        ('', '--where unsure --flip', dict(flip=True)),
        ('', '--where unsure --flip --cost 1.4', dict(flip=True, cost=1.4)),
        ('where=dict(size=64, share=0.2)', '--flip', dict(size=64, share=0.2, flip=True)),
        ("where='unsure'", '--cost 1.4', dict(cost=1.4)),
        (
            'where=dict(size=64, share=0.2)',
            '--cost 1.4',
            dict(size=64, cost=1.4),
        ),
        ("where='unsure'", '--where everywhere', None),
    ],
)
def test_in_windows_a_cost_says_how_much_of_the_image_is_computed_again(
    make, settings, flags, where
):
    hook = make(settings, *flags.split(), '--states', '4').custom_hooks[1]
    assert hook.where == where
    assert hook.search == dict(type='SpreadStates', budget=4)


@pytest.mark.parametrize(
    ('settings', 'flags', 'said'),
    [
        (
            "search=dict(type='FixedStates', states=[[0]])",
            '--states 2',
            'FixedStates of the config',
        ),
        ("search=dict(type='Greedy')", '--states 2', "unknown search 'Greedy'"),
        ('', '--states 0', 'at least 1; got 0'),
        ('', '--cost 0.5', 'at least 1, got 0.5'),
        ('', '--where unsure --cost 0.5', '1 or more; got 0.5'),
        ('', '--flip', 'add --where unsure; --tta predicts mirror images of whole images'),
    ],
)
def test_what_does_not_fit_is_refused(make, settings, flags, said):
    with pytest.raises(MMDiscardError, match=re.escape(said)):
        make(settings, *flags.split())


def test_plain_takes_none_of_them(make, capsys):
    with pytest.raises(SystemExit):
        make('', '--plain', '--states', '2')
    assert '--plain leaves mmdiscard out' in capsys.readouterr().err


def test_groups_are_words_or_lists():
    assert [parse_groups(word) for word in ('auto', 'all', 'inner')] == ['auto', 'all', 'inner']
    assert parse_groups('image') == ['image']
    assert parse_groups('layer3.0, -1,0') == ['layer3.0', -1, 0]


# ------------------------------------------------------------------------------------- none there
@pytest.fixture(scope='module')
def small_fcn(tmp_path_factory):
    """Arguments that test a small relative of MMSegmentation's own config on four images."""
    folder = tmp_path_factory.mktemp('fcn')
    options = [*SMALL, f'test_dataloader.dataset.data_root={write_ade20k(folder / "data")}']
    path = folder / 'model.pth'
    path.write_bytes(b'\x80\x02')
    argv = [FCN, str(path), '--cfg-options', *options]
    write_checkpoint(tool.make_config(tool.parse_args(argv)), path)
    return argv


@pytest.mark.parametrize('flags', ['', '--tta'])
def test_a_config_of_mmseg_untouched(small_fcn, tmp_path, monkeypatch, flags):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)
    name = f'experiment_name=fcn{flags}'
    views = [f'tta_pipeline.1.transforms.0.{i}.scale_factor=0.5' for i in range(6)]
    tool.main([*small_fcn, name, *views, '--states', '2', '--groups=-1', *flags.split()])
    (log,) = tmp_path.glob('work_dirs/fcn_r50-d8_4xb4-160k_ade20k-512x512/*/*.log')
    passes = 4 * 12 if flags else 4
    assert f'images: 4, forward passes without mmdiscard: {passes}' in log.read_text()
    assert 'states per image: 2.00 on average' in log.read_text()
    assert 'second look' not in log.read_text()
    # What the run leaves behind can be run by MM's own tool.
    left = Config.fromfile(log.parents[1] / 'fcn_r50-d8_4xb4-160k_ade20k-512x512.py')
    assert left.custom_imports.imports == ['mmdiscard']


def test_states_in_unsure_windows(small_fcn, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)
    tool.main([*small_fcn, 'experiment_name=where', '--groups=-1', '--where=unsure', '--cost=1.6'])
    (log,) = tmp_path.glob('work_dirs/fcn_r50-d8_4xb4-160k_ade20k-512x512/*/*.log')
    text = log.read_text()
    assert 'in 2 windows of 40 x 40 (52% of an image of 64 x 96), about 1.52 plain' in text
    assert 'second look: 2.00 windows per image on average, 52.1% of its area' in text
    assert 'cost: 1.52 plain forwards' in text
