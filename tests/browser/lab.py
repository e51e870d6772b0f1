"""JupyterLab, Notebook 7 or Voila of a test's own; and its notebooks in a real Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Locator, Page, TimeoutError  # noqa: A004

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
SERVER = (
    "--no-browser --allow-root --ip=127.0.0.1 --ServerApp.port_retries=0 --IdentityProvider.token=test --ServerApp.terminals_enabled=False"
).split()
PATIENCE = 180_000  # milliseconds


def free_port() -> int:
    """Return a port that is free, below those of which Linux gives others one as they ask: it stays free until a server listens."""
    while True:
        port = random.randrange(14_000, 20_000)
        with socket.socket() as listening, contextlib.suppress(OSError):
            listening.bind(("127.0.0.1", port))
            return port


class Server:
    """A server of notebooks, with settings, folders and a port of its own."""

    def __init__(self, folder: Path, *, app: str = "lab", theme: str = "light", notebook: str = "", options: Sequence[str] = ()) -> None:
        self.root = folder / "work"
        self.root.mkdir(parents=True, exist_ok=True)
        self.app = app
        self.port = free_port()
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "notification.jupyterlab-settings").write_text('{"fetchNews":"false","checkForUpdates":false,"doNotDisturbMode":true}')
        (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": f"JupyterLab {theme.capitalize()}"}))
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "IPYTHONDIR": str(folder / "ipython"),
        }
        self.log = folder / "server.log"
        command = {
            "lab": ["jupyterlab", *SERVER, f"--port={self.port}", f"--ServerApp.root_dir={self.root}", "--LabApp.news_url=None"],
            "notebook": ["notebook", *SERVER, f"--port={self.port}", f"--ServerApp.root_dir={self.root}"],
            "voila": ["voila", "--no-browser", f"--port={self.port}", "--Voila.ip=127.0.0.1", "--show_tracebacks=True", str(self.root / notebook)],
        }[app]  # fmt: skip
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, *options],
                env=self.environment,
                cwd=self.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE / 1000
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)
            else:
                return

    def url(self, name: str = "") -> str:
        if self.app == "voila":
            return f"http://127.0.0.1:{self.port}/"
        place = "lab/tree" if self.app == "lab" else "notebooks"
        return f"http://127.0.0.1:{self.port}/{place}/{name}?token=test&reset"

    def close(self) -> None:
        """End it with the kernels that it started."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Notebook:
    """A notebook in a browser's page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    @classmethod
    def open(cls, browser: Browser, server: Server, name: str, cells: Sequence[str] | None = None, *, width: int = 1280) -> Notebook:
        """Open a notebook in a page of its own, made of these cells if it is not there."""
        if cells is not None:
            made = nbformat.v4.new_notebook(
                cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
                metadata={"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}},
            )
            nbformat.write(made, server.root / name)
        notebook = cls(browser.new_page(viewport={"width": width, "height": 1000}))
        notebook.page.set_default_timeout(PATIENCE)
        notebook.page.goto(server.url(name))
        if server.app == "lab":
            notebook.wait_idle()
        elif server.app == "notebook":
            notebook.page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
            notebook._wait_begun()
        return notebook

    def _wait_begun(self) -> None:
        """Run the first cell until it ran: what is run before the kernel is there is dropped, or a dialog asks for a kernel."""
        for _ in range(60):
            try:
                answer = self.page.locator(".jp-Dialog .jp-mod-accept")
                if answer.is_visible():
                    answer.click(timeout=3_000)
                self.cell(0).locator(".jp-InputPrompt").click(timeout=3_000)
                self.page.keyboard.press("Control+Enter")
                return self.cell(0).get_by_text(re.compile(r"^\[\d+\]:")).wait_for(timeout=3_000)
            except TimeoutError:
                continue
        raise AssertionError(f"the kernel does not begin: {self.page.locator('.jp-Dialog').all_inner_texts()}")

    def wait_idle(self) -> None:
        self.page.get_by_text(re.compile(r"\| Idle$")).wait_for()

    def command(self, menu: str, entry: str) -> None:
        """Choose an entry of a menu."""
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.get_by_role("menuitem", name=entry).first.click()

    def run_all(self) -> None:
        self.command("Run", "Run All Cells")

    def run(self, number: int) -> None:
        """Run one cell."""
        self.cell(number).locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Control+Enter")

    def restart(self) -> None:
        """Restart the kernel."""
        self.command("Kernel", "Restart Kernel…")
        with self.page.expect_websocket(lambda line: "/channels" in line.url):  # to the new one; a state may go by unseen
            self.page.get_by_role("button", name="Confirm Kernel Restart").click()
        self.wait_idle()

    def reload(self) -> None:
        """Load the page anew, as another browser would find it."""
        self.page.reload()
        self.wait_idle()

    def reload_with_widgets(self, seen: Locator) -> None:
        """Load the page anew until the widgets of the living kernel are seen: JupyterLab gives up on a busy machine after 4 s."""
        for _ in range(6):
            self.reload()
            try:
                seen.wait_for(timeout=40_000)
            except TimeoutError:
                assert not self.page.get_by_text("Error displaying widget").is_visible()
            else:
                return
        seen.wait_for()

    def save(self) -> None:
        self.command("File", "Save Notebook")
        self.page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")

    def cell(self, number: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def output(self, number: int) -> Locator:
        return self.cell(number).locator(".jp-Cell-outputArea")

    def screenshot(self, name: str, what: Locator | None = None) -> Path:
        """Keep a picture of the page, or of a part of it."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        (what or self.page).screenshot(path=path)
        return path

    def errors_of_ours(self) -> list[str]:
        """Return what the browser's console complained of, but for what a server without extensions lacks."""
        return [error for error in self.errors if "Failed to load resource" not in error and "favicon" not in error]

    def close(self) -> None:
        self.page.close()
