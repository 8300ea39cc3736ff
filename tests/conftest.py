import mmengine.config.config
import pytest
import torch
import yapf.yapflib.yapf_api
from hypothesis import settings
from mmengine.registry import DefaultScope

# The same examples in every run: a test that fails, fails for everybody.
settings.register_profile('mmdiscard', derandomize=True)
settings.load_profile('mmdiscard')


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """Small tensors are slower with more, and test processes share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope='session', autouse=True)
def unformatted_logs():
    """Runners print their config; making that pretty takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (yapf.yapflib.yapf_api, mmengine.config.config):
            patch.setattr(module, 'FormatCode', lambda text, **style: (text, False), raising=False)
        yield


@pytest.fixture(scope='module', autouse=True)
def no_scope_of_another_module():
    """What a module's own fixtures build is built before `fresh_globals` comes to a test."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def fresh_globals():
    """Tests in any order: the same random numbers, and no scope that another test left behind."""
    torch.manual_seed(0)
    DefaultScope._instance_dict.clear()
