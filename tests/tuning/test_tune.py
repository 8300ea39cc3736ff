"""From a config and a checkpoint to a choice, and a config that tests by it."""

import json
import shutil

import pytest

from benchmarks.demo.digit_scenes import DigitSceneParams, make_digit_scenes
from mmdiscard import MMDiscardError
from mmdiscard import test as test_tool
from mmdiscard import tune as tool
from mmdiscard.tuning import Procedure, candidates
from mmdiscard.tuning import tune as engine
from mmdiscard.tuning.result_files import ResultFiles

KINDS = {'classifier': 'classification', 'segmentor_stride8': 'segmentation'}
FEW = ['--images', '12', '--sizes', '1.25', '--states', '2', '--cost', '3']
STATES = '2 states of the deepest group'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Scenes whose test images are their validation images, so that figures can be compared."""
    params = DigitSceneParams(seg_images=(2, 12, 1), cls_images=(2, 12, 1))
    folder = make_digit_scenes(tmp_path_factory.mktemp('scenes') / 'data', params)
    for val in [path for path in folder.rglob('val') if path.is_dir()]:
        shutil.rmtree(val.with_name('test'))
        shutil.copytree(val, val.with_name('test'))
    return folder


@pytest.fixture
def command(data, demo_model, tmp_path):
    """Arguments of a command."""

    def make(name, extra=''):
        cfg, checkpoint = demo_model(name)
        for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[field].dataset.data_root = str(data / KINDS[name])
        cfg.pop('work_dir')
        path = tmp_path / 'own.py'
        path.write_text(f'{cfg.pretty_text}\n{extra}')
        return [str(path), checkpoint, '--work-dir', str(tmp_path / 'out'), *FEW]

    return make


def choose(monkeypatch, name):
    """Let a procedure be chosen, whatever it gains."""
    names = []

    def noted(*args):
        found = candidates(*args)
        names[:] = [one.name for one in found]
        return found

    monkeypatch.setattr(engine, 'candidates', noted)
    monkeypatch.setattr(engine, 'choose', lambda *_: names.index(name))


def results_in(folder):
    return json.loads((folder / 'out/tune/results.json').read_text())


def run_test(tmp_path, checkpoint, *flags):
    out = tmp_path / 'metrics.json'
    args = [str(tmp_path / 'out/tuned.py'), checkpoint, '--work-dir', str(tmp_path / 'test')]
    test_tool.main([*args, '--out', str(out), '--out-item', 'metrics', *flags])
    metrics = json.loads(out.read_text())
    return metrics.get('mIoU', metrics.get('accuracy/top1'))


@pytest.mark.parametrize(
    'name, procedures',
    [
        ('classifier', [Procedure((1.0, 1.25), True, STATES)]),
        (
            'segmentor_stride8',
            [
                Procedure((1.0, 1.25), False, STATES),
                Procedure((1.25,)),
                Procedure(states=STATES),
                Procedure(states='flip in unsure windows'),
            ],
        ),
    ],
    ids=KINDS,
)
def test_the_written_config_gives_the_metric_that_was_measured(
    name, procedures, command, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, 'DEFAULT_GROUPS', ([-1],))
    args = [*command(name), '--cost', '4']
    for procedure in procedures:  # the images are predicted once, see the next test but one
        choose(monkeypatch, procedure.name)
        tool.main(args)
        found = results_in(tmp_path)
        metrics = {row['name']: row['gain']['metric'] for row in found['rows']}
        assert found['chosen'] == procedure.name
        metric = run_test(tmp_path, args[1])
        assert metric == pytest.approx(metrics[procedure.name], abs=0.0051)
    plain = run_test(tmp_path, args[1], '--plain')
    assert plain == pytest.approx(metrics['plain'], abs=0.0051)
    written = {path.name for path in (tmp_path / 'out/tune').iterdir()}
    assert written == {'gain.png', 'images.rank0.jsonl', 'results.json', 'table.md'}


def test_without_a_certain_gain_the_config_stays_plain(command, tmp_path, monkeypatch):
    choose(monkeypatch, 'plain')
    tool.main([*command('classifier'), '--groups'])
    text = (tmp_path / 'out/tuned.py').read_text()
    assert 'mmdiscard.' not in text
    assert results_in(tmp_path)['chosen'] == 'plain'


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_where_it_was(command, tmp_path, monkeypatch):
    args = [*command('classifier'), '--groups']
    append, seen = ResultFiles.append, []
    stop_after = [6]

    def interrupted(self, images, results):
        if len(seen) in stop_after:
            raise Stop
        append(self, images, results)
        seen.extend(images)

    monkeypatch.setattr(ResultFiles, 'append', interrupted)
    with pytest.raises(Stop):
        tool.main(args)
    file = tmp_path / 'out/tune/images.rank0.jsonl'
    file.write_text(file.read_text()[:-20])  # the last line is cut off
    seen.clear()
    stop_after.clear()
    tool.main(args)
    assert seen == [5, 6, 7, 8, 9, 10, 11]
    monkeypatch.setattr(ResultFiles, 'append', append)
    parts = results_in(tmp_path)
    tool.main([*args, '--seed', '1'])  # other settings: from the beginning
    tool.main(args)
    whole = results_in(tmp_path)
    for one, other in zip(parts['rows'], whole['rows'], strict=True):
        assert one['gain'] == other['gain']
        assert one['nll'] == pytest.approx(other['nll'], rel=1e-5)  # batches were others


def test_a_lower_cost_predicts_nothing_again(command, tmp_path, monkeypatch):
    args = [*command('classifier'), '--groups']
    tool.main(args)
    at_three = {row['name']: row for row in results_in(tmp_path)['rows']}
    monkeypatch.setattr(engine, 'evaluate_procedures', None)
    tool.main([*args, '--cost', '1'])
    found = results_in(tmp_path)['rows']
    assert 0 < len(found) < len(at_three)
    for row in found:
        assert row == at_three[row['name']]


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--cost', '0.5'], '--cost is at least 1, one plain forward; got 0.5'),
        (['--images', '9'], '--images is at least 10; got 9'),
        (['--split', 'train'], "choosing needs at least 10 images, and the split 'train' has 2"),
        (['--states', '1'], '--states are numbers of at least 2'),
        (['--sizes', '0'], '--sizes are between 0.1 and 4'),
        (['--groups', 'nose'], "2 states of nose: there is no subsampling group 'nose'"),
    ],
)
def test_mistakes_are_one_line(flags, message, command):
    with pytest.raises(MMDiscardError) as error:
        tool.main([*command('classifier'), *flags])
    assert message in str(error.value)


NO_LABELS = """
test_dataloader['dataset']['pipeline'] = [
    dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
"""


def test_images_without_labels_are_refused(command):
    with pytest.raises(MMDiscardError, match='has no LoadAnnotations'):
        tool.main([*command('segmentor_stride8', NO_LABELS), '--groups'])


def test_a_view_that_fails_is_named(command, monkeypatch):
    import mmdiscard.tuning.evaluation as evaluation

    predict = evaluation._predict

    class Broken:
        @staticmethod
        def test_step(data):
            raise RuntimeError('too large')

    def fails(model, view, data):
        return predict(Broken if view == (1.25, True) else model, view, data)

    monkeypatch.setattr(evaluation, '_predict', fails)
    with pytest.raises(MMDiscardError) as error:
        tool.main([*command('classifier'), '--groups'])
    assert "cannot predict the view 'size 1.25 flip' of " in str(error.value)
    assert str(error.value).endswith('too large; leave it out with --sizes or --no-flip')
