import mmengine.config.config
import pytest
import torch
import yapf.yapflib.yapf_api
from mmengine.registry import DefaultScope


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


@pytest.fixture(autouse=True)
def fresh_globals():
    """Tests in any order: the same random numbers, and no scope that another test left behind."""
    torch.manual_seed(0)
    DefaultScope._instance_dict.clear()
