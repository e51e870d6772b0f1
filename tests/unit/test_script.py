"""The generated script: what bash makes of it is what the sweep says, whatever the values are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexa_sdk import Job, Sweep
from nexa_sdk.monitoring.telemetry import start_lines
from nexa_sdk.passing import argv, environment
from nexa_sdk.scheduling.slurm.bash import quote, variable_names
from nexa_sdk.scheduling.slurm.rows import RowFiles
from nexa_sdk.scheduling.slurm.script import ArrayScript, render

TELL = [sys.executable, "-S", "-c", "import json, os, sys; print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items()}]))"]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.sampled_from(
    [
        "",
        " ",
        "-x",
        "--",
        "a b",
        "$(touch x)",
        "`id`",
        "*",
        "?",
        "~",
        "'",
        '"',
        "\\",
        "\n",
        "\r\n",
        "a'b\"c",
        "$HOME",
        "!!",
        "#",
        "{}",
        "\x01\x7f",
        "\x1b[0m",
        "é",
        "漢字",
        "\u2028",
        "%A",
        "[a]",
        "=",
        "\t",
        "&",
        ";",
        "|",
    ]
)
VALUES = TEXT | st.integers() | st.floats() | st.booleans() | st.none()


def run_task(script: str, folder: Path, task: int, count: int = 1) -> subprocess.CompletedProcess[str]:
    for name in ("tasks", "results", "submitted"):
        (folder / name).mkdir(exist_ok=True, parents=True)
    env = {
        "PATH": os.environ["PATH"],
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        "SLURM_JOB_NAME": "r-000000-0",
    }
    path = folder / "job.sbatch"
    path.write_text(script)
    return subprocess.run(["bash", str(path)], env=env, capture_output=True, text=True, timeout=60)


def script_of(
    sweep: Sweep,
    folder: Path,
    job: Job | None = None,
    *,
    first: int = 0,
    count: int | None = None,
    workdir: str = "/",
    are_rows_beside: bool = False,
) -> str:
    array = ArrayScript(
        "r-000000", "r-000000-0", str(folder), first, count or len(sweep), len(sweep), workdir, are_rows_beside=are_rows_beside
    )
    return render(sweep, job or Job(), array)


def received(script: str, folder: Path, task: int) -> tuple[list[str], dict[str, str]]:
    done = run_task(script, folder, task)
    assert done.returncode == 0, done.stderr
    words, env = json.loads(done.stdout)
    return words, env


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_text_reaches_argv_unchanged_in_every_style(tmp_path: Path, data: st.DataObject) -> None:
    style = data.draw(st.sampled_from(["flags", "hydra", "env", "template"]))
    value = VALUES if style != "template" else TEXT | st.integers() | st.floats()
    columns = st.lists(value, min_size=1, max_size=3)
    if style == "flags":
        columns = st.lists(TEXT | st.integers() | st.none(), min_size=1, max_size=3) | st.lists(st.booleans(), min_size=1, max_size=3)
    grid = {name: data.draw(columns) for name in data.draw(st.sampled_from([["a"], ["a", "learning_rate"], ["i", "x.y", "run"]]))}
    if style == "env":
        grid = {name.replace(".", "_"): values for name, values in grid.items()}
    fixed = {"fixed": data.draw(value)}
    command = [*TELL, *(f"<{{{name}}}|" for name in [*grid, "fixed"])] if style == "template" else TELL
    if style == "template":
        command[3] = command[3].replace("{", "{{").replace("}", "}}")
    sweep = Sweep(command, grid, fixed=fixed, style=style)
    task = data.draw(st.integers(0, len(sweep) - 1))
    words, env = received(script_of(sweep, tmp_path / "run"), tmp_path / "run", task)
    expected = argv(sweep, sweep[task])
    assert words == expected[4:]
    for name, text in environment(sweep, sweep[task]).items():
        assert env[name] == text


@pytest.mark.parametrize("are_rows_beside", [False, True])
@pytest.mark.parametrize("style", ["flags", "hydra", "env"])
def test_a_boolean_that_a_trial_lacks_is_left_out(tmp_path: Path, style: str, are_rows_beside: bool) -> None:
    sweep = Sweep.from_trials(TELL, [{"a": value} for value in (None, False, True)], style=style)
    for path, content in RowFiles(sweep).items() if are_rows_beside else ():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    script = script_of(sweep, tmp_path, are_rows_beside=are_rows_beside)
    for task in range(3):
        words, env = received(script, tmp_path, task)
        assert words == argv(sweep, sweep[task])[4:]
        assert env.get("a") == environment(sweep, sweep[task]).get("a")


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=30))
def test_quoted_words_come_through_a_bash_array(texts: list[str]) -> None:
    script = f"a=({' '.join(map(quote, texts))}); printf '%s\\0' \"${{a[@]}}\""
    for locale in ("C", "C.UTF-8"):
        out = subprocess.run(["bash", "-c", script], capture_output=True, env={"LC_ALL": locale}, check=True).stdout
        assert out.decode().split("\0")[:-1] == texts


@pytest.mark.parametrize("count", [1, 7, 40])
def test_every_trial_of_a_chunk_is_its_own(tmp_path: Path, count: int) -> None:
    sweep = Sweep(TELL, {"a": range(3, 303, 3), "b": ["x", "y"], "c": [True, None]}, where=lambda t: t["a"] % 2 == 1)
    first = 11
    script = script_of(sweep, tmp_path / "run", first=first, count=count)
    for task in sorted({0, count // 2, count - 1}):
        words, env = received(script, tmp_path / "run", task)
        assert words == argv(sweep, sweep[first + task])[4:]
        assert env["NEXA_TRIAL"] == str(first + task)


def test_explicit_trials_are_cut_to_the_chunk(tmp_path: Path) -> None:
    sweep = Sweep.from_trials(TELL, [{"a": f"value{k}", **({"b": k} if k % 2 else {})} for k in range(50)])
    script = script_of(sweep, tmp_path / "run", first=20, count=10)
    assert "value20" in script
    assert "value19" not in script
    assert "value30" not in script
    for task in (0, 5, 9):
        assert received(script, tmp_path / "run", task)[0] == argv(sweep, sweep[20 + task])[4:]


def test_sampled_trials_of_a_long_range(tmp_path: Path) -> None:
    sweep = Sweep(TELL, {"a": range(10**6)}).sample(20)
    script = script_of(sweep, tmp_path / "run")
    assert len(script) < 6000
    assert received(script, tmp_path / "run", 13)[0] == argv(sweep, sweep[13])[4:]


def test_a_grids_script_has_the_size_of_its_axes(tmp_path: Path) -> None:
    small = script_of(Sweep(TELL, {"a": range(10), "b": list(range(10))}), tmp_path)
    huge = script_of(Sweep(TELL, {"a": range(10**6), "b": list(range(10)), "c": range(0, 10**6, 5)}), tmp_path, count=1000)
    assert len(huge) < len(small) + 500


def test_no_variable_of_a_parameter_is_anothers() -> None:
    names = ["lr", "LR", "l.r", "l_r", "i", "run", "path", "PATH", "trial", "http_proxy", "_", "signal", "2x".lstrip("2")]
    chosen = variable_names(names)
    assert len(set(chosen.values())) == len(names)
    assert not set(chosen.values()) & {"i", "run", "trial", "PATH", "http_proxy", "signal"}
    assert all(value.isidentifier() and value == value.lower() for value in chosen.values())


def test_the_record_and_the_exit_code(tmp_path: Path) -> None:
    sweep = Sweep([sys.executable, "-c", "import sys; sys.exit({code})"], {"code": [0, 7, 137]})
    script = script_of(sweep, tmp_path / "run")
    for task, code in enumerate([0, 7, 137]):
        assert run_task(script, tmp_path / "run", task).returncode == code
        record = json.loads((tmp_path / "run/tasks" / f"7_{task}.json").read_text())
        assert (record["trial"], record["exit"]) == (task, code)
        assert record["end"] >= record["start"]
    assert not list((tmp_path / "run/tasks").glob("*.started"))


@pytest.mark.parametrize(
    ("job", "sweep", "words"),
    [
        (Job(pre_commands=["true", "ls /nowhere-at-all"]), None, "this pre-command failed with exit status 2: ls /nowhere-at-all"),
        (Job(venv="/nowhere"), None, "there is no virtual environment /nowhere"),
        (Job(modules=["cuda/12.1"]), None, "module load cuda/12.1 failed"),
        (Job(), Sweep("no-such-program-here"), "there is no program no-such-program-here on"),
    ],
)
def test_a_task_that_can_not_begin_says_why_and_is_recorded(tmp_path: Path, job: Job, sweep: Sweep | None, words: str) -> None:
    done = run_task(script_of(sweep or Sweep("true"), tmp_path / "run", job), tmp_path / "run", 0)
    assert done.returncode != 0
    assert words in done.stderr
    assert json.loads((tmp_path / "run/tasks/7_0.json").read_text())["exit"] == done.returncode


def test_a_missing_working_directory_fails_and_does_not_run_elsewhere(tmp_path: Path) -> None:
    done = run_task(script_of(Sweep("pwd"), tmp_path / "run", workdir="/no/such place"), tmp_path / "run", 0)
    assert done.returncode == 78
    assert "the working directory /no/such place is missing on" in done.stderr
    assert done.stdout == ""


def test_a_run_folder_that_the_node_does_not_see_is_named(tmp_path: Path) -> None:
    script = script_of(Sweep("pwd"), tmp_path / "elsewhere")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/job.sbatch").write_text(script)
    done = subprocess.run(
        ["bash", str(tmp_path / "run/job.sbatch")],
        env={"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78
    assert f"the run's folder {tmp_path}/elsewhere is not visible on" in done.stderr


def test_environment_variables_reach_the_program(tmp_path: Path) -> None:
    sweep = Sweep(TELL, {"a": [1, 2]}, env={"FROM_SWEEP": "$x 'y'"}, tags=["one", "two"], wandb_group="g", wandb_project="p")
    _, env = received(script_of(sweep, tmp_path / "run", Job(env={"FROM_JOB": "multi\nline"})), tmp_path / "run", 1)
    assert env["FROM_SWEEP"] == "$x 'y'"
    assert env["FROM_JOB"] == "multi\nline"
    assert (env["WANDB_RUN_GROUP"], env["WANDB_RUN_NAME"], env["WANDB_PROJECT"], env["WANDB_TAGS"]) == ("g", "r-000000-1", "p", "one,two")
    assert (env["NEXA_RUN"], env["NEXA_TRIAL"]) == ("r-000000", "1")
    assert env["NEXA_RESULTS"] == str(tmp_path / "run/results/7_1.jsonl")


def test_directives_survive_a_hostile_path(tmp_path: Path) -> None:
    script = script_of(Sweep("true"), Path("/tmp/with space/100%/#hash"), Job(constraint="a|b&c"))
    assert '#SBATCH --output="/tmp/with space/100%%/#hash/logs/%A_%a.log"' in script
    assert "#SBATCH --constraint=a|b&c" in script


GOLDEN = Path(__file__).parents[1] / "data" / "golden"
GOLDENS = ["grid", "switches", "table", "beside", "packed", "side-by-side", "watched", "watched-on-two-nodes", "budget", "budget-packed"]


def golden(name: str) -> tuple[Sweep, Job]:
    if name in ("grid", "budget"):
        return Sweep("python train.py", {"lr": [1e-3, 1e-4], "seed": range(3)}, name="lr-sweep"), Job(
            time="2:00:00", gpus_per_node=1, throttle=2, modules=["cuda/12.1"]
        )
    if name == "switches":
        return (
            Sweep(
                "python train.py", {"amp": [True, False], "resume": [None, "last.pt"]}, fixed={"epochs": 3}, tags=["night"], name="switches"
            ),
            Job(
                time="1-0:00:00",
                gpus=2,
                gpu_type="h100",
                mem="64G",
                venv="/opt/venv",
                env={"OMP_NUM_THREADS": "4"},
                pre_commands=["nvidia-smi"],
                secrets=["WANDB_API_KEY"],
            ),
        )
    if name.endswith("packed"):
        return Sweep("python train.py", {"lr": [1e-3, 1e-4], "seed": range(5)}, name="packed"), Job(time="2:00:00", gpus=1, pack=4)
    if name == "side-by-side":
        return Sweep("python train.py", {"lr": [1e-3, 1e-4], "seed": range(2)}, name="pairs", where=lambda t: t["seed"] < 2), Job(
            time="2:00:00", gpus=4, pack=2, side_by_side=True, signal="TERM@60"
        )
    if name.startswith("watched"):
        return Sweep("python train.py", {"lr": [1e-3, 1e-4]}, name=name), Job(
            time="2:00:00", gpus_per_node=8, nodes=2 if name.endswith("nodes") else None, secrets=["WANDB_API_KEY"], telemetry=True
        )
    if name == "beside":
        rows = [{"lr": 1e-3, "resume": None, "amp": True}, {"lr": 1e-4, "resume": "last.pt", "amp": False}]
        return Sweep.from_trials("python train.py", rows, fixed={"epochs": 3}, name="beside"), Job(time="2:00:00", gpus=1)
    return (
        Sweep.from_trials(
            "python -m pkg.train +experiment={exp} seed={seed}", [{"exp": "a b", "seed": 1}, {"exp": "c'd", "seed": 2}], name="table"
        ),
        Job(partition="gpu", conda="ml", signal="USR1@60"),
    )


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_scripts(name: str) -> None:
    """The scripts in data/golden are read by people; a change of theirs is meant and reviewed."""
    sweep, job = golden(name)
    run = f"{sweep.name}-7f3a9c"
    folder = f"/home/ada/.nexa/runs/{run}"
    array = ArrayScript(run, f"{run}-0", folder, 0, len(sweep), len(sweep), "/home/ada/project", are_rows_beside=name == "beside")
    if job.sampled_every is not None:
        array = replace(array, beside=start_lines(job.sampled_every, tasks=len(sweep), nodes=job.nodes or 1))
    if name.startswith("budget"):
        array = replace(array, has_budget=True, ends_running=name == "budget-packed")
    text = render(sweep, job, array)
    path = GOLDEN / f"{name}.sbatch"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_scripts_please_shellcheck(name: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here; get it by: apt-get install shellcheck")
    # SC1090/1091: sourced files are elsewhere; SC2317: it does not see what a trap calls
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "--exclude=SC1090,SC1091,SC2317", GOLDEN / f"{name}.sbatch"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
