"""Browser tests: JupyterLab in a real Chromium, driven as a person would."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from lab import ARGUMENTS, CHROMIUM, PATIENCE, Notebook, Server
from playwright.sync_api import Browser, expect, sync_playwright

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")  # playwright's event loop is this thread's as long as it runs
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium on PATH")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab for all tests of a worker; each notebook has a kernel of its own."""
    server = Server(tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture
def notebook(browser: Browser, lab: Server, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """Open notebooks; what one looked like in the end is kept.

    Cell 0 gives the kernel the test's own folders and environment; those given follow.
    """
    opened: list[Notebook] = []

    def open_one(*cells: str, width: int = 1280, server: Server = lab) -> Notebook:
        mine = {key: value for key, value in os.environ.items() if key.startswith(("NEXA_", "SLURM_", "XDG_", "MUNGE"))}
        first = f"import os\nos.environ.update({mine!r})\nos.chdir({os.getcwd()!r})\n%load_ext nexa_sdk"
        name = f"{request.node.name.partition('[')[0]}-{len(opened)}.ipynb"
        opened.append(Notebook.open(browser, server, name, [first, *cells], width=width))
        return opened[-1]

    yield open_one
    for number, one in enumerate(opened):
        one.screenshot(f"last-{request.node.name}-{number}")
        one.close()
