"""`benchmarks.speed.run`: one run through everything, and every mistake in one line."""

import json
from pathlib import Path

import pytest

from benchmarks.speed import run as tool
from benchmarks.speed import timing as benchmark
from benchmarks.speed.methods import METHODS
from mmdiscard.engine import cli

ROOT = Path(__file__).parents[2]
RESNET = ['--model', 'mmpretrain::resnet/resnet18_8xb32_in1k.py', '--size', '64', '64']
RESNET += ['--batch', '2', '--classes', '7']
SMALLER = ['--cfg-options', 'model.backbone.stem_channels=4', 'model.backbone.base_channels=4']
SMALLER += ['model.head.in_channels=32']
CONFIG = """
_base_ = '{root}/configs/ade20k/segformer_mit-b0_spread-b4_8xb2-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(embed_dims=8, num_layers=[1] * 4, num_heads=[1, 1, 2, 2], mlp_ratio=2),
    decode_head=dict(in_channels=[8, 8, 16, 16], channels=8, norm_cfg=dict(type='BN')))
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'small_segformer.py'
    path.write_text(CONFIG.format(root=ROOT))
    return str(path)


@pytest.fixture
def fails(capsys):
    """The one line that a command line ends in."""

    def fails(*argv: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda: tool.main(list(argv)))
        assert ended.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if 'mmdiscard: ' in line]
        assert len(lines) == 1
        return lines[0]

    return fails


def test_all_methods_of_a_classifier(tmp_path, capsys):
    out, figure = tmp_path / 'made' / 'report.json', tmp_path / 'figure.png'
    more = ['--methods', 'all', '--budgets', '4', '--turns', '1', '--threads', '1']
    tool.main([*RESNET, *more, '--out', str(out), '--figure', str(figure), *SMALLER])
    assert 'turns 1/1' in capsys.readouterr().err

    report = json.loads(out.read_text())
    assert report['machine'].keys() >= {'cpu', 'cores', 'threads', 'torch', 'device'}
    assert report['settings']['size'] == '64 x 64'
    by_method = {}
    for record in report['records']:
        by_method.setdefault(record['method'], []).append(record)
        assert record['ratio_min'] <= record['ratio'] <= record['ratio_max']
        assert record['seconds'] > 0
        assert record['peak_bytes'] > 0
    assert list(by_method) == ['plain', *METHODS]
    assert [record['states'] for record in by_method['search']] == [1, 4]
    assert by_method['naive'][0]['difference'] < 1e-5
    assert by_method['naive'][0]['bound'] == by_method['search'][1]['bound']
    assert by_method['deepest'][0]['bound'] < by_method['search'][1]['bound'] < 4
    assert by_method['search'][0]['bound'] == pytest.approx(1, abs=1e-3)
    assert by_method['search'][1]['quotient'] == pytest.approx(
        by_method['search'][1]['ratio'] / by_method['search'][1]['bound']
    )
    rows = [line for line in out.with_suffix('.md').read_text().splitlines() if '| search' in line]
    assert len(rows) == 2
    assert figure.read_bytes().startswith(b'\x89PNG')
    assert not list(tmp_path.rglob('*.partial'))


def test_hook_of_a_config(config, capsys, tmp_path):
    out = tmp_path / 'report.json'
    more = ['--size', '64', '64', '--classes', '150', '--methods', 'search', 'naive', 'tta']
    more += ['--budgets', '3', '--max-rows', '1', '--max-cache-bytes', '0', '--channels-last']
    tool.main([config, *more, '--no-time', '--out', str(out)])
    records = json.loads(out.read_text())['records']
    assert [record['method'] for record in records] == ['plain', 'search', 'search', 'naive', 'tta']
    assert 'ratio' not in records[0]
    assert records[3]['difference'] < 1e-5
    assert records[0]['peak_bytes'] >= 150 * 64 * 64 * 4  # the logits at image size
    assert '| search | 3 | - | - | 3.000 | - |' in capsys.readouterr().out


def test_groups_by_name_or_position():
    assert tool.groups(['inner']) == 'inner'
    assert tool.groups(['-1', 'layer2.0', '0']) == [-1, 'layer2.0', 0]


@pytest.mark.parametrize(
    ('argv', 'said'),
    [
        ([], 'name a config, or a model with --model: one of the two'),
        ([*RESNET, '--turns', '0'], '--turns has to be at least 1; got 0'),
        ([*RESNET, '--size', '0', '64'], '--size has to be at least 1; got 0'),
        ([*RESNET, '--budgets', '4', '0'], '--budgets has to be at least 1; got 0'),
        ([*RESNET, '--methods', 'serch'], "unknown method 'serch'; choose from plain, search"),
        ([*RESNET, '--no-time', '--no-memory'], 'nothing to measure'),
        ([*RESNET, '--figure', 'a.xyz'], 'a.xyz: figures end in one of'),
        ([*RESNET, '--device', 'abacus'], '--device abacus cannot be used'),
        ([*RESNET, *SMALLER[:2], 'model.backbone.wide=4'], 'the model cannot be built: TypeError'),
        ([*RESNET, *SMALLER[:1], 'custom_hooks.7.a=4'], 'it has no list custom_hooks'),
        ([*RESNET, *SMALLER, '--max-rows', '0'], 'max_rows must be a whole number of at least 1'),
        ([*RESNET, *SMALLER, '--budgets', '65'], 'budget 65 is more than the 64 states'),
        ([*RESNET, *SMALLER, '--groups', 'layer9'], 'layer9'),
        ([*RESNET[:2], *SMALLER, 'model.head.in_channels=31'], 'does not run on images of 224 x'),
        (['--model', 'resnet51'], 'config not found: resnet51'),
        (['--model', 'mmpretrain::absent.py'], 'cannot read mmpretrain::absent.py'),
    ],
)
def test_mistakes(fails, argv, said):
    assert said in fails(*argv)


def test_named_models_are_there():
    for name, known in tool.NAMED_MODELS.items():
        cfg, found = benchmark.read_model_config(name, tool.NAMED_MODELS)
        assert cfg.model.backbone
        assert found is known
