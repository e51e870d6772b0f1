"""What axe-core has against the accessibility of a cell's output."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from lab import Notebook
from playwright.sync_api import Page

__all__ = ["serious", "serious_within"]


def serious(notebook: Notebook, number: int) -> list[str]:
    """Return the violations in a cell's output that axe-core calls serious or critical: what, and where."""
    notebook.page.evaluate("number => document.querySelectorAll('.jp-Notebook .jp-CodeCell')[number].id = `axe-${number}`", number)
    return serious_within(notebook.page, f"#axe-{number} .jp-Cell-outputArea")


def serious_within(page: Page, place: str) -> list[str]:
    """Return those within what a CSS selector finds."""
    answer = Axe().run(page, context={"include": [[place]]}).response
    assert answer["passes"], "axe-core looked at nothing"
    return [
        f"{found['id']}: {node['html'][:300]} {node.get('failureSummary', '')}"
        for found in answer["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
