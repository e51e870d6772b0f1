"""Values that lie beside the script: what bash makes of a row is what the sweep says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_script import TELL, TEXT, VALUES, received, run_task, script_of

from nexa_sdk import Cluster, Job, Sweep, choice, uniform
from nexa_sdk.passing import argv, environment
from nexa_sdk.plan import Plan
from nexa_sdk.scheduling.slurm.bash import variable_names
from nexa_sdk.scheduling.slurm.rows import RowFiles
from nexa_sdk.written import read_sweep, to_json, write_sweep


def lay_down(sweep: Sweep, folder: Path) -> None:
    for path, content in RowFiles(sweep).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def beside(sweep: Sweep, folder: Path, **how: int) -> str:
    lay_down(sweep, folder)
    return script_of(sweep, folder, are_rows_beside=True, **how)


def plan_of(sweep: Sweep, *, script_bytes: int = 1 << 30, array_size: int = 10**6) -> Plan:
    plan = Cluster("local").plan(sweep, time="0:05:00")
    plan.limits = replace(plan.limits, script_bytes=script_bytes, array_size=array_size)
    return plan


def rows_of(sweep: Sweep) -> Iterator[dict[str, str]]:
    """Let bash read every row, one line at a time, and say what it has assigned."""
    names = variable_names([name for factor in sweep.space.factors for name in factor.columns])
    tell = "; ".join(f"[[ ${{{variable}+given}} ]] && printf '%s\\0' {name!r} \"${variable}\"" for name, variable in names.items())
    program = f"while IFS= read -r line; do unset -v {' '.join(names.values())}; eval \"$line\"; {tell}; printf '\\0'; done"
    for content in RowFiles(sweep).values():
        told = subprocess.run(["bash", "-c", program], input=content, capture_output=True, check=True, env={"LC_ALL": "C"}).stdout.decode()
        words = iter(told.split("\0")[:-1])
        row: dict[str, str] = {}
        for word in words:
            if word:
                row[word] = next(words)
            else:
                yield row
                row = {}


@pytest.mark.parametrize("where", [script_of, beside])
@pytest.mark.parametrize("style", ["flags", "hydra", "env"])
def test_a_switch_that_a_trial_lacks(tmp_path: Path, style: str, where) -> None:
    sweep = Sweep.from_trials(TELL, [{"a": value, "b": 1} for value in (True, None, False)], style=style)
    script = where(sweep, tmp_path / "run")
    for trial in range(3):
        words, env = received(script, tmp_path / "run", trial)
        assert words == argv(sweep, sweep[trial])[4:]
        assert ("a" in env) == ("a" in environment(sweep, sweep[trial]))


# ---- any value, in every style -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_text_reaches_argv_unchanged_in_every_style(tmp_path: Path, data: st.DataObject) -> None:
    style = data.draw(st.sampled_from(["flags", "hydra", "env", "template"]))
    value = VALUES if style != "template" else TEXT | st.integers() | st.floats()
    columns = value
    if style == "flags":
        columns = data.draw(st.sampled_from([TEXT | st.integers() | st.none(), st.booleans(), st.booleans() | st.none()]))
    names = data.draw(st.sampled_from([["a"], ["a", "learning_rate"], ["i", "x_y", "run"], ["row", "rows", "lr"]]))
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, columns)), min_size=1, max_size=4))
    command = [*TELL, *(f"<{{{name}}}|" for name in [*names, "fixed"])] if style == "template" else TELL
    if style == "template":
        command[3] = command[3].replace("{", "{{").replace("}", "}}")
    sweep = Sweep.from_trials(command, rows, fixed={"fixed": data.draw(value)}, style=style)
    trial = data.draw(st.integers(0, len(sweep) - 1))
    words, env = received(beside(sweep, tmp_path / "run"), tmp_path / "run", trial)
    assert words == argv(sweep, sweep[trial])[4:]
    for name, text in environment(sweep, sweep[trial]).items():
        assert env[name] == text
    assert not ({name for name in names if sweep[trial][name] is None} & env.keys())


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"text": TEXT | st.none(), "value": VALUES, "name": TEXT}), min_size=1, max_size=40))
def test_bash_reads_from_each_line_what_the_row_has(rows: list[dict[str, object]]) -> None:
    sweep = Sweep.from_trials(["env"], rows, style="env")
    assert list(rows_of(sweep)) == [environment(sweep, trial) for trial in sweep]


@pytest.mark.parametrize(
    "texts", [["plain", "a/b=c"], ["two words", "x"], ["it's", "x"], ["", "x"], ["a\nb", "x"], ["~", "x:~"], ["é", "%s %d"]]
)
def test_texts_that_need_no_quotes_and_others_come_through_alike(texts: list[str]) -> None:
    sweep = Sweep.from_trials(["env"], [{"text": text} for text in texts], style="env")
    assert [row["text"] for row in rows_of(sweep)] == texts


def test_a_row_is_one_line_whatever_it_holds() -> None:
    sweep = Sweep.from_trials("p", [{"a": "x\ny\r\n\u2028\x85", "b": None}, {"a": "", "b": 1.5}])
    (content,) = RowFiles(sweep).values()
    assert content.decode().splitlines() == [r"row=0 a=$'x\ny\r\n\xe2\x80\xa8\xc2\x85'", "row=1 a='' b=1.5"]


# ---- which trials lie in which file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "sweep",
    [
        Sweep.from_trials(TELL, [{"a": f"value {k}", "b": k if k % 3 else None} for k in range(2345)]),
        Sweep(TELL, {"a": range(0, 9000, 3), "b": ["x", "it's"]}),
        Sweep(TELL, {"a": range(0, 9000, 3), "b": ["x", "y"], "c": [True, None]}, where=lambda t: t["a"] % 2 == 1 and t["b"] == "y"),
        Sweep(TELL, {"a": range(10**6), "b": [0.5, 1.5]}).sample(1500),
        Sweep(TELL, sample={"a": uniform(0, 1), "b": choice(["x", "y z"])}, n=2001),
        Sweep(TELL, {f"axis{k}": range(100) for k in range(11)}).sample(1001),
    ],
    ids=["explicit", "grid", "where", "drawn of a grid", "drawn", "more than bash counts"],
)
def test_a_trial_finds_its_row_whichever_file_and_array_it_is_in(sweep: Sweep, tmp_path: Path) -> None:
    last = len(sweep) - 1
    first = 990
    script = beside(sweep, tmp_path / "run", first=first, count=last - first + 1)
    for trial in (first, 999, 1000, last):
        words, env = received(script, tmp_path / "run", trial - first)
        assert words == argv(sweep, sweep[trial])[4:]
        assert env["NEXA_TRIAL"] == str(trial)


def test_a_row_that_is_gone_fails_the_trial_and_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sweep = Sweep.from_trials("true", [{"a": k} for k in range(5)])
    script = beside(sweep, folder)
    rows = folder / "trials/0.sh"
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:3]))
    assert run_task(script, folder, 2).returncode == 0
    for task in (3, 4):
        done = run_task(script, folder, task)
        assert done.returncode == 78
        assert f"the row of trial {task} is not in {rows}" in done.stderr
    rows.unlink()
    assert f"the row of trial 2 is not in {rows}" in run_task(script, folder, 2).stderr


def test_what_a_trial_lacks_comes_from_nowhere_else(tmp_path: Path) -> None:
    sweep = Sweep.from_trials(TELL, [{"lr": None, "seed": 1}, {"lr": 2, "seed": 2}])
    lay_down(sweep, tmp_path / "run")
    script = script_of(sweep, tmp_path / "run", Job(pre_commands=["export lr=77"]), are_rows_beside=True)
    words, env = received(script, tmp_path / "run", 0)
    assert words == ["--seed", "1"]
    assert "lr" not in env


def test_paths_that_are_no_rows_are_not_there() -> None:
    files = RowFiles(Sweep.from_trials("p", [{"a": k} for k in range(1001)]))
    assert list(files) == ["trials/0.sh", "trials/1.sh"]
    assert len(files) == 2
    for path in ("trials/2.sh", "trials/01.sh", "trials/-1.sh", "job-0.sbatch"):
        assert path not in files


# ---- when they lie beside ----------------------------------------------------------------------------------


def test_a_short_table_stays_in_the_script() -> None:
    plan = plan_of(Sweep.from_trials("p", [{"a": f"value{k}"} for k in range(100)]))
    assert not plan.files
    assert "value99" in plan.script


@pytest.mark.parametrize(
    "sweep",
    [
        Sweep.from_trials("p", [{"a": f"value{k}"} for k in range(500)]),
        Sweep("p", {"a": [k / 7 for k in range(500)]}),
        Sweep("p", {"a": [k / 7 for k in range(500)], "b": [1, 2]}),
        Sweep("p", {"a": range(1000), "b": range(1000)}).sample(900),
    ],
    ids=["explicit", "axis", "grid", "drawn"],
)
def test_a_table_over_the_script_limit_lies_beside_every_script(sweep: Sweep) -> None:
    plan = plan_of(sweep, script_bytes=5000)
    assert set(plan.files) == {"trials/0.sh"}
    assert plan.files["trials/0.sh"].count(b"\n") == len(sweep)
    assert all(len(script) < 5000 for script in plan.scripts)


def test_a_table_over_a_mebibyte_lies_beside_whatever_the_limit() -> None:
    texts = ["x" * 1000 + str(k) for k in range(2000)]
    plan = plan_of(Sweep("p", {"a": texts, "b": [1, 2]}))
    assert len(plan.script) < 5000
    assert len(plan.files) == 4
    long_command = plan_of(Sweep(["p", *["x" * 100_000] * 20], {"a": [1, 2]}))
    assert not long_command.files


def test_a_million_explicit_trials_are_planned_and_run(tmp_path: Path) -> None:
    rows = [{"lr": k / 7, "name": f"trial {k}"} for k in range(10**6)]
    plan = plan_of(Sweep.from_trials(TELL, rows))
    plan.folder = str(tmp_path / "run")
    assert len(plan.script) < 5000
    assert len(plan.files) == 1000
    trial = 765_432
    file = tmp_path / "run/trials/765.sh"
    file.parent.mkdir(parents=True)
    file.write_bytes(plan.files["trials/765.sh"])
    assert len(file.read_bytes()) < 100_000
    words, _ = received(plan.script, tmp_path / "run", trial)
    assert words == ["--lr", repr(trial / 7), "--name", f"trial {trial}"]


def test_a_written_sweep_is_read_again_and_its_file_has_a_line_for_each_part() -> None:
    sweep = Sweep.from_trials("p", [{"a": k, "b": f"x{k}"} for k in range(3)], tags=["t"])
    text = to_json({"id": "r", "sweep": write_sweep(sweep), "nothing": {}})
    assert '\n  "factors": [{"a": [0, 1, 2], "b": ["x0", "x1", "x2"]}],\n' in text
    assert list(read_sweep(json.loads(text)["sweep"])) == list(sweep)


def test_numbers_are_spelled_as_they_are_elsewhere() -> None:
    sweep = Sweep.from_trials("p", [{"a": value} for value in (1e-3, -0.0, float("inf"), float("nan"), 10**30, True, 1e22)], style="hydra")
    lines = RowFiles(sweep)["trials/0.sh"].decode().split()[1::2]
    assert lines == [f"a={word}" for word in ("0.001", "-0.0", "inf", "nan", str(10**30), "true", "1e+22")]
