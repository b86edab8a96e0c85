"""Shared by all tests: a tiny method, tiny images, one torch thread (two make tiny work slower, not faster)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "faults"))
sys.path.insert(0, str(Path(__file__).parent))

import figures

import tiny
from unpaired import machine

# Tests that run commands in this process must not change its allocator: others measure what memory their children take.
# With any of glibc's own settings there, commands leave it alone (this one is its default).
os.environ.setdefault("MALLOC_TOP_PAD_", "131072")

# What ``auto`` means as a precision depends on the processor: either can be asked for, to see that no test leans on one
# of them.
if "UNPAIRED_TEST_BF16" in os.environ:
    machine.has_bf16 = lambda device: os.environ["UNPAIRED_TEST_BF16"] == "1"

SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    figures.deselect(config, items)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    precision = machine.choose_precision("auto", torch.device("cpu"))
    terminalreporter.write_line(f"training precision auto was {precision} (UNPAIRED_TEST_BF16=0 or 1 changes it)")
    figures.summary(terminalreporter)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> figures.Figure:
    """``figure("F1", text)``: a line of the fault suite's summary."""
    return figures.Figure(request.node)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPAIRED_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def shared() -> Path:
    """The folder with papers, parity outputs and real data; tests that need it are skipped where it is not."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not here: its parity outputs and images are not part of the repository")
    return SHARED


@pytest.fixture
def run_config() -> object:
    """A run of the tiny method."""
    return tiny.config()
