"""Fixtures for the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# faiss's threads wait asleep: awake they would starve the other workers' threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """Escapes lone surrogates in captured output: a worker cannot send them, and would stop."""
    outcome = yield
    report = outcome.get_result()
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of the reference programs' outputs; its README tells what is what."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and foreign weights beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (real photographs, foreign weights), which is not here")
    return SHARED
