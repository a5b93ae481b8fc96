import pytest


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks are slower on more threads, and to the bit the same on one only."""
    torch = pytest.importorskip("torch", reason="training is done by torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
