"""What importing costs, what is public, and who may import whom (the floors of the architecture)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nexa_sdk

PACKAGE = Path(nexa_sdk.__file__).parent

# ---- what an import loads ----------------------------------------------------------------------

HEAVY = {"pydantic", "pandas", "plotly", "paramiko", "ipywidgets", "docker", "IPython"}


@pytest.mark.parametrize(
    "program",
    [
        "import nexa_sdk",
        "from nexa_sdk import Sweep; sweep = Sweep('python train.py', grid={'lr': [0.1, 0.01], 'seed': range(3)}); sweep[4], repr(sweep), sweep.argv(4)",
        "from nexa_sdk import NexaError, RunFailed, State, loguniform",
        "from nexa_sdk import CostReport",
        "import nexa_sdk; nexa_sdk.ui.sweep; assert 'ui' in dir(nexa_sdk)",
        "from nexa_sdk import profiles; profiles.profiles()",
    ],
)
def test_nothing_heavy_is_loaded(program: str) -> None:
    report = f"{program}; import sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
    fresh = subprocess.run(
        [sys.executable, "-c", report], env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True, check=True
    )
    assert fresh.stdout.split() == []


# ---- what is public ----------------------------------------------------------------------------

PUBLIC = [
    "Budget",
    "Cluster",
    "CostReport",
    "Job",
    "NexaError",
    "Plan",
    "Retry",
    "Run",
    "RunFailed",
    "State",
    "Sweep",
    "attach",
    "budgets",
    "choice",
    "clusters",
    "loguniform",
    "normal",
    "randint",
    "runs",
    "set_budget",
    "track_usage",
    "uniform",
]


def test_the_public_names_are_these() -> None:
    assert nexa_sdk.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC
    assert sorted(nexa_sdk._HOMES) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_can_be_imported_and_is_found(name: str) -> None:
    assert getattr(nexa_sdk, name).__name__ == name
    assert name in dir(nexa_sdk)


def test_a_type_checker_sees_the_same_names_in_the_same_places() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if is_for_type_checkers(node))
    seen = {alias.name: node.module for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"nexa_sdk.{home}" for name, home in nexa_sdk._HOMES.items()}


# ---- the floors --------------------------------------------------------------------------------

# A file imports from floors below, or from its own folder without circles.
FLOORS = [
    # values: no I/O
    "errors states retry values variables command_line written distributions space passing sweep walltime tasks records job rates budget token_price cost_line cost_report cost_figures focus focus_calls estimate settings display yaml_lines definition manifest",
    "transports journal journal_file toml_lines code_version project_files",  # how a command reaches a machine; what was submitted
    "scheduling containers monitoring provisioning remote",  # wings; none imports another
    "plan capacity program_checks program_parameters cluster known profiles finding now snapshots code_records run actions retrying keepers keeping attempts task_records waiting log_tail watched submission charges hold budgeting run_budget predecessors job_secrets tables container syncing fetching remote_cell cell_following",  # objects that act, and what a run is made of
    "operations",  # the specification's functions, thin over the objects
    "verbs",  # what %nexa and the console command share
    "draft",  # what a form is a face of
    "notebook",
    "ui cli __main__",
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}

# Who looks upstairs, always inside a function: importer, function, imported.
LOOKS_UPSTAIRS = {
    ("nexa_sdk", "load_ipython_extension", "nexa_sdk.notebook.magics"),
    ("nexa_sdk", "unload_ipython_extension", "nexa_sdk.notebook.magics"),
    ("nexa_sdk.waiting", "wait", "nexa_sdk.notebook.progress"),
    ("nexa_sdk.cost_report", "CostReport.between", "nexa_sdk.monitoring.ledger"),
    ("nexa_sdk.run", "Run.watch", "nexa_sdk.ui"),
    ("nexa_sdk.run", "Run._ipython_display_", "nexa_sdk.ui"),
    ("nexa_sdk.remote_cell", "_output", "nexa_sdk.notebook.cell_output"),
    ("nexa_sdk.syncing", "progress_of", "nexa_sdk.notebook.transfer"),
    ("nexa_sdk.cluster", "Cluster.watch", "nexa_sdk.ui"),
    ("nexa_sdk.run", "Run.top", "nexa_sdk.ui"),
    ("nexa_sdk.sweep", "Sweep.edit", "nexa_sdk.ui"),
    ("nexa_sdk.verbs.build", "_build", "nexa_sdk.ui"),
    ("nexa_sdk.scheduling.slurm.batch", "prepare_slurm_batch", "nexa_sdk.cluster"),
}


@dataclass(frozen=True, order=True)
class Import:
    """One module of ours importing another; `function` is empty at module level."""

    importer: str
    function: str
    imported: str

    @property
    def goes_up(self) -> bool:
        """Whether it leads to a floor above, or to another folder of the same floor."""
        mine, other = floor(self.importer), floor(self.imported)
        return other > mine or (other == mine and folder(self.importer) != folder(self.imported))


def floor(module: str) -> int:
    """Return a module's floor; the package itself holds names alone, and everybody stands on it."""
    return FLOOR[room(module)] if module != "nexa_sdk" else -1


def room(module: str) -> str:
    return module.split(".")[1]


def folder(module: str) -> str:
    return room(module) if (PACKAGE / room(module)).is_dir() else "nexa_sdk"


@cache
def modules() -> dict[str, Path]:
    """Return all modules by name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_of(module: str, node: ast.AST, scope: tuple[str, ...] = (), is_in_function: bool = False) -> Iterator[Import]:
    """Find the imports of our own modules below a node, those for type checkers left aside."""
    for child in ast.iter_child_nodes(node):
        if is_for_type_checkers(child):
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            function = ".".join(scope) if is_in_function else ""
            for name in imported_by(child):
                yield Import(module, function, name)
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        inner = (*scope, child.name) if is_function or isinstance(child, ast.ClassDef) else scope
        yield from imports_of(module, child, inner, is_in_function or is_function)


def imported_by(statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names if alias.name.split(".")[0] == "nexa_sdk")
        return
    assert statement.level == 0, f"line {statement.lineno}: write the whole name of what is imported"
    if statement.module is None or statement.module.split(".")[0] != "nexa_sdk":
        return
    for alias in statement.names:
        within = f"{statement.module}.{alias.name}"
        if within in modules():
            yield within
        elif statement.module == "nexa_sdk" and alias.name in nexa_sdk._HOMES:
            yield f"nexa_sdk.{nexa_sdk._HOMES[alias.name]}"
        else:
            yield statement.module


@cache
def imports() -> list[Import]:
    return sorted(
        {found for module, path in modules().items() for found in imports_of(module, ast.parse(path.read_text(encoding="utf-8")))}
    )


def test_every_file_has_a_floor() -> None:
    assert {room(module) for module in modules() if module != "nexa_sdk"} <= FLOOR.keys()


def test_files_import_from_floors_below_or_from_their_own_folder() -> None:
    assert [found for found in imports() if found.goes_up and not found.function] == []


def test_looks_upstairs_are_those_listed_and_no_others() -> None:
    assert {(found.importer, found.function, found.imported) for found in imports() if found.goes_up and found.function} == LOOKS_UPSTAIRS


def test_there_are_no_circles() -> None:
    graph = TopologicalSorter[str]()
    for found in imports():
        if not found.function:
            graph.add(found.importer, found.imported)
    try:
        graph.prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' → '.join(error.args[1])}")
