"""The notebooks in notebooks/: each runs, and shows on a static page what it showed when it ran."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from nexa_sdk.journal import Journal

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
LARGEST = 300_000  # bytes
TABLES = {
    "01": "%nexa watch",
    "02": "run = %nexa launch digits",
    "03": "run = plan.submit()",
    "04": "login.start()",
    "08": "run = plan.submit()",
}


def execute(name: str, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook by nbmake in a copy of its folder, and return it as it was saved."""
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("images", ".ipynb_checkpoints", "__pycache__"))
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
    shown = [output.get("data", {}).get("text/html", output.get("text") or "") for cell in cells for output in cell.outputs]
    return [text for text in shown if text]  # of widgets it shows nothing


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


def test_sweeps_in_depth(tmp_path: Path) -> None:
    notebook = execute("03_sweeps.ipynb", tmp_path / "notebooks")
    assert "22 trials" in outputs(notebook, "sweep = Sweep(")[0]
    told = "".join(outputs(notebook, "from nexa_sdk import NexaError"))
    assert all(words in told for words in ("did you mean 'text'?", "did you mean 'gpus'?", "time: 120 is ambiguous"))
    assert "loguniform(0.001, 0.5)" in outputs(notebook, "drawn.edit()")[-1]
    assert outputs(notebook, "run = plan.submit()")[-1].count("COMPLETED") == 6
    assert len(Journal().runs()) == 2


def test_behind_ssh(tmp_path: Path, slurm) -> None:
    notebook = execute("04_ssh.ipynb", tmp_path / "notebooks")
    assert "is not known yet" in outputs(notebook, "from nexa_sdk import NexaError")[0]
    assert "login is not reachable since" in outputs(notebook, "login.stop()")[0]
    assert outputs(notebook, "login.start()")[-1].count("COMPLETED") == 4
    assert "True" in "".join(outputs(notebook, "print(cluster.plan(sweep, job)"))
    assert len(Journal().runs()) == 1, "launched once"


def test_cost_and_budgets(tmp_path: Path, slurm) -> None:
    notebook = execute("05_cost.ipynb", tmp_path / "notebooks")
    assert "it could cost 7.59 USD" in outputs(notebook, "try:")[0]
    assert "FAILED" in outputs(notebook, 'run.cost().by("state")')[0]
    assert "from 5 trials of 1 earlier run" in outputs(notebook, "cluster.plan(sweep, ")[0]
    assert "0.012420" in outputs(notebook, "CostReport.between")[0]


def test_utilization(tmp_path: Path, slurm) -> None:
    notebook = execute("06_utilization.ipynb", tmp_path / "notebooks")
    (picture,) = outputs(notebook, "BUSY = ")
    assert "<svg" in picture
    assert "job_cpu" in outputs(notebook, "samples = run.utilization()")[0]


def test_a_cell_on_the_cluster(tmp_path: Path, slurm) -> None:
    notebook = execute("07_remote.ipynb", tmp_path / "notebooks")
    cells = {cell.source: cell for cell in notebook.cells}
    assert "epoch 15: accuracy 0.9" in "".join(outputs(notebook, "%%nexa remote -i images,digits"))
    (plot,) = [cell for source, cell in cells.items() if "plt.show()" in source]
    assert [output for output in plot.outputs if "image/png" in output.get("data", {})]
    assert "IndexError" in "".join(outputs(notebook, "from nexa_sdk import Cluster"))
    assert (
        cells[next(source for source in cells if source.startswith("from nexa_sdk import runs"))].outputs[-1]["data"]["text/plain"] == "42"
    )


def test_coming_from_scripts_and_submitit(tmp_path: Path, slurm) -> None:
    notebook = execute("08_migrating.ipynb", tmp_path / "notebooks")
    assert outputs(notebook, "run = plan.submit()")[-1].count("COMPLETED") == 4
    assert not (tmp_path / "notebooks" / "array.sh").exists()


def test_the_app(tmp_path: Path) -> None:
    notebook = execute("app.ipynb", tmp_path / "notebooks")
    assert "Sweep(" in outputs(notebook, "from nexa_sdk import Sweep, ui")[-1]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_committed_shows_its_outputs_and_is_small(name: str) -> None:
    path = FOLDER / name
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "a cell was never run"
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run in order, from the first to the last"
    text = path.read_text()
    own = [f"{FOLDER.parent}/", "/root/", "/tmp/pytest", f'"{os.uname().nodename}"']
    assert not [word for word in own if word in text], "a path or the name of the machine that ran it"
    if name[:2] in TABLES:
        shown = outputs(notebook, TABLES[name[:2]])[-1]
        assert "COMPLETED" in shown
        assert "<table" in shown
