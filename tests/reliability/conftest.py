"""What all tests of reliability share: data, one thread, signals that are heard."""

import signal
from pathlib import Path

import pytest
import torch
from tests import reliable_runs


@pytest.fixture(autouse=True)
def _one_thread():
    """Sum in the same order as the processes that a test starts, which have one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _interruptible():
    """Hear SIGINT, in this process and in those it starts, even when run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 21 recordings, with units."""
    return reliable_runs.write_data(tmp_path_factory.mktemp("tones"))
