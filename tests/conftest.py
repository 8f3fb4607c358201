"""Switches for tests that need more than the clone, and steady property tests."""

import signal

import pytest
from hypothesis import settings

SWITCHES = {"gpu": "an accelerator", "network": "the internet"}

# A busy machine is slow now and then; that is not a property of the code.
settings.register_profile("unheard", deadline=None)
settings.load_profile("unheard")


# A shell starts jobs in the background with Ctrl-C ignored, and children inherit that; tests that
# stop a training by it must not depend on how they were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, need in SWITCHES.items():
        parser.addoption(f"--{name}", action="store_true", help=f"also run tests that need {need}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for name, need in SWITCHES.items():
            if name in item.keywords and not config.getoption(f"--{name}"):
                item.add_marker(pytest.mark.skip(reason=f"needs {need}: give --{name}"))
