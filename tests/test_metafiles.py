"""The index of models: every config is in it, and what it says of a config is true."""

import importlib.util
import re
from pathlib import Path
from urllib.parse import urlparse

import pytest
from mmengine.config import Config
from mmengine.fileio import load

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)
KEYS = {'Name', 'In Collection', 'Config', 'Weights', 'Metadata', 'Results'}
METADATA = {'Training Data', 'Architecture', 'Base Model', 'No Weights', 'States'}
METADATA |= {'Test Techniques'}
RESULT = {'Task', 'Dataset', 'Metrics', 'Baseline', 'Source'}


def metafiles(folder: Path) -> list[dict]:
    return [load(folder / name) for name in load(folder / 'model-index.yml')['Import']]


def models_of(folder: Path) -> list[dict]:
    """The models that the ``model-index.yml`` of a package lists."""
    return [model for file in metafiles(folder) for model in file.get('Models') or []]


MODELS = [pytest.param(model, id=model['Name']) for model in models_of(ROOT)]


@pytest.fixture(scope='module')
def published():
    """Models of the packages that have weights, by name."""
    found = (importlib.util.find_spec(name).origin for name in ('mmpretrain', 'mmseg'))
    models = [model for path in found for model in models_of(Path(path).parent / '.mim')]
    return {model['Name']: model for model in models if 'Weights' in model}


def inherited(path: Path) -> str:
    """All that a config names in its ``_base_``, in its parents' too."""
    text = path.read_text()
    own = path.with_name(f'{path.stem.removesuffix("_tta")}.py')
    return text if own == path else text + inherited(own)


# ------------------------------------------------------------------------------------- the index
def test_every_config_has_one_entry():
    entries = sorted(model['Config'] for model in models_of(ROOT))
    assert entries == CONFIGS, 'each config needs an entry in the metafile.yml of its folder'


def test_every_metafile_is_listed():
    files = {str(path.relative_to(ROOT)) for path in (ROOT / 'configs').rglob('metafile.yml')}
    listed = load(ROOT / 'model-index.yml')['Import']
    assert sorted(listed) == sorted(files)


def test_collections_are_there():
    for file in metafiles(ROOT):
        names = [collection['Name'] for collection in file['Collections']]
        assert {model['In Collection'] for model in file['Models']} == set(names)
        assert all((ROOT / collection['README']).is_file() for collection in file['Collections'])


# ------------------------------------------------------------------------------------ the entries
@pytest.mark.parametrize('model', MODELS)
def test_fields_are_known_and_complete(model):
    data = model['Metadata']
    assert model.keys() <= KEYS
    assert data.keys() <= METADATA
    assert model['Name'] == Path(model['Config']).stem
    assert data['Training Data']
    assert data['Architecture']
    assert ('Weights' in model) != ('No Weights' in data), 'give weights, or why there are none'
    for result in model.get('Results', []):
        assert result.keys() == RESULT
        assert all(0 <= value <= 100 for value in result['Metrics'].values())


@pytest.mark.parametrize('model', MODELS)
def test_weights_are_those_of_the_model_that_is_inherited(model, published):
    base = model['Metadata'].get('Base Model')
    if base is None:
        assert 'Weights' not in model
    elif base.startswith('timm/'):
        cfg = Config.fromfile(ROOT / model['Config'])
        assert base == timm_weights(cfg.model.model_name)
    else:
        theirs = published[base]
        config = re.sub('^configs/', '', theirs['Config']).removesuffix('.py')
        assert f'::{config}.py' in inherited(ROOT / model['Config'])
        # The same files are on several hosts.
        assert urlparse(model['Weights']).path == urlparse(theirs['Weights']).path


def timm_weights(name: str) -> str:
    timm = pytest.importorskip('timm')
    return f'timm/{name}.{timm.get_pretrained_cfg(name).tag}'
