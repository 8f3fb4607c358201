"""Switches for tests that need more than the clone, and steady property tests."""

import pytest
from hypothesis import settings

SWITCHES = {"gpu": "an accelerator", "network": "the internet"}

# A busy machine is slow now and then; that is not a property of the code.
settings.register_profile("unheard", deadline=None)
settings.load_profile("unheard")


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, need in SWITCHES.items():
        parser.addoption(f"--{name}", action="store_true", help=f"also run tests that need {need}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for name, need in SWITCHES.items():
            if name in item.keywords and not config.getoption(f"--{name}"):
                item.add_marker(pytest.mark.skip(reason=f"needs {need}: give --{name}"))
