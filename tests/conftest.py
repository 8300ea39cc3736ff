import pytest
import torch


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """Small tensors are slower with more, and test processes share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
