"""The notebooks in notebooks/: each runs, and shows on a static page what it showed when it ran."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
LARGEST = 300_000  # bytes


def execute(name: str, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook by nbmake in a copy of its folder, and return it as it was saved."""
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("images", ".ipynb_checkpoints"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbmake", "--overwrite", "--nbmake-timeout=200", "-q", name],
        cwd=folder, capture_output=True, text=True, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return nbformat.read(folder / name, 4)


def outputs(notebook: nbformat.NotebookNode, source: str) -> list[str]:
    """Return what a static viewer shows of the cells whose source begins so."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.startswith(source)]
    assert cells, f"there is no cell {source!r}"
    return [output.get("data", {}).get("text/html") or output.get("text") or "" for cell in cells for output in cell.outputs]


def test_the_quickstart(tmp_path: Path) -> None:
    notebook = execute("01_quickstart.ipynb", tmp_path / "notebooks")
    (table,) = outputs(notebook, "%nexa watch")
    assert table.count(">COMPLETED</span>") == 13, "the live table's last state is the saved one: 12 trials and the summary"
    assert "RUNNING" not in table
    (results,) = outputs(notebook, "results = run.results()")
    assert results.count("COMPLETED") == 12
    assert "accuracy" in results


def test_on_a_real_slurm(tmp_path: Path, slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute("02_slurm.ipynb", tmp_path / "notebooks")
    assert outputs(notebook, "%nexa results")[0].count("COMPLETED") == 4
    assert "gres/gpu" in "".join(outputs(notebook, "import os"))
    attempts = outputs(notebook, "fixed.touch()")[-1]
    assert (attempts.count("FAILED"), attempts.count("COMPLETED")) == (2, 4)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_committed_shows_its_outputs_and_is_small(name: str) -> None:
    path = FOLDER / name
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "a cell was never run"
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run in order, from the first to the last"
    (table,) = outputs(notebook, "%nexa watch") if "01" in name else outputs(notebook, "run = %nexa launch digits")[-1:]
    assert "COMPLETED" in table
    assert "<table>" in table
