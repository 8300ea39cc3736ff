import pytest
import torch
from mmengine.registry import DefaultScope


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """Small tensors are slower with more, and test processes share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_globals():
    """Tests in any order: the same random numbers, and no scope that another test left behind."""
    torch.manual_seed(0)
    DefaultScope._instance_dict.clear()
