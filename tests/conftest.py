"""Options and fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", default=os.environ.get("SHAREDBB_DATA"), help="folder with real clips and pictures")


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Path:
    """The folder of real data; tests that ask for it are skipped where it is absent."""
    given = request.config.getoption("--data")
    if not given or not Path(given).is_dir():
        pytest.skip("no real data: pass --data DIR or set SHAREDBB_DATA")
    return Path(given)
