"""%nexa as a user has it: in an IPython, and in executed and saved notebooks."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from traitlets.config import Config

from nexa_sdk import Cluster, Job, Run, Sweep
from nexa_sdk.definition import Definition
from nexa_sdk.errors import BadUsage, DefinitionError, JobError, NexaError, RunNotFound, SweepError
from nexa_sdk.notebook.magics.expansion import expand, split
from nexa_sdk.plan import Plan
from nexa_sdk.verbs import Help

TRAIN = """
import argparse
parser = argparse.ArgumentParser()
for name in ("lr", "seed", "sleep", "fail"):
    parser.add_argument("--" + name, type=float, default=0)
given = parser.parse_args()
time.sleep(given.sleep)
print("lr is", given.lr, flush=True)
if given.fail:
    sys.exit(3)
open(os.environ["NEXA_RESULTS"], "a").write(json.dumps({"loss": given.lr * 2}) + "\\n")
"""

STUDY = """\
job: {time: 0:01:00}
sweep:
  base_args: python train.py
  parameters: {lr: [1e-3, 1e-4], seed: {range: [0, 2]}}
"""


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a real IPython with the extension."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor"}}))
    shell.run_line_magic("load_ext", "nexa_sdk")
    return shell


@pytest.fixture
def train(program):
    program(TRAIN)


def value(ip: InteractiveShell, code: str):
    """Return the value of a cell that succeeds."""
    result = ip.run_cell(code)
    result.raise_error()
    return result.result


def error(ip: InteractiveShell, code: str) -> NexaError:
    """Return the error of a cell that fails."""
    found = ip.run_cell(code).error_in_exec
    assert isinstance(found, NexaError), found
    return found


def notebook(folder: Path, *cells: str, allow_errors: bool = False) -> nbformat.NotebookNode:
    """Execute a notebook in a real kernel, save it, and return what was saved."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = new_notebook(cells=[new_code_cell(cell) for cell in ("%load_ext nexa_sdk", *cells)], metadata=metadata)
    NotebookClient(
        made, timeout=240, startup_timeout=240, allow_errors=allow_errors, resources={"metadata": {"path": str(folder)}}
    ).execute()
    path = folder / "saved.ipynb"
    nbformat.write(made, path)
    return nbformat.read(path, as_version=4)


# ---- loading -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("train")
def test_loading_twice_reloading_and_unloading(ip):
    run = value(ip, "%nexa launch train.py lr=1 --time 0:01:00")
    ip.run_line_magic("load_ext", "nexa_sdk")
    ip.run_line_magic("reload_ext", "nexa_sdk")
    assert len(ip.Completer.custom_matchers) == 1
    assert value(ip, "%nexa cancel").id == run.id
    ip.run_line_magic("unload_ext", "nexa_sdk")
    assert ip.Completer.custom_matchers == []
    assert ip.find_line_magic("nexa") is None
    assert ip.find_cell_magic("nexa") is None


def test_loading_imports_nothing_heavy(tmp_path):
    code = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "ip = InteractiveShell()\n"
        "before = set(sys.modules)\n"
        "ip.run_line_magic('load_ext', 'nexa_sdk')\n"
        "new = set(sys.modules) - before\n"
        "assert len(new) < 20, sorted(new)\n"
        "assert not {'pydantic', 'pandas', 'ruamel', 'plotly', 'ipywidgets'} & {name.split('.')[0] for name in new}, sorted(new)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)})


def test_help_shows_itself_and_ends_nothing(ip, capsys):
    overview = value(ip, "%nexa")
    assert isinstance(overview, Help)
    assert "launch" in repr(overview)
    assert value(ip, "%nexa -h") == overview
    for verb in (
        "connect",
        "sweep",
        "preview",
        "launch",
        "status",
        "watch",
        "logs",
        "top",
        "utilization",
        "verdicts",
        "results",
        "cancel",
        "retry",
        "resume",
        "runs",
        "attach",
        "sync",
        "fetch",
        "sandbox",
    ):
        text = value(ip, f"text = %nexa {verb} -h\ntext")
        assert text.startswith(f"usage: %nexa {verb}")
        assert f"  {verb} " in overview
        assert "\x1b" not in text
    assert "--gpus-per-node" in value(ip, "%nexa launch train.py --help")
    capsys.readouterr()
    ip.run_cell("%nexa?")
    assert "Show the trials while they run." in capsys.readouterr().out


# ---- what a line means ---------------------------------------------------------------------------


@pytest.mark.usefixtures("train")
def test_preview_and_launch_a_program_with_parameters(ip):
    plan = value(ip, "p = %nexa preview train.py lr=1e-3,1e-4 seed=0..2 sleep=0.10 --time 0:10:00 --throttle 2\np")
    assert isinstance(plan, Plan)
    assert plan.sweep.command == ("python", "train.py")
    assert len(plan.sweep) == 6
    assert plan.sweep.argv(5) == ["python", "train.py", "--lr", "1e-4", "--seed", "2", "--sleep", "0.10"]
    assert plan.job == Job(time="0:10:00", throttle=2)
    assert value(ip, "%nexa runs").empty
    run = value(ip, "run = %nexa launch $p\nrun")
    assert isinstance(run, Run)
    assert run.id == plan.id
    run.wait(progress=False)
    results = value(ip, "%nexa results")
    assert list(results["loss"]) == [2e-3] * 3 + [2e-4] * 3
    assert value(ip, "x = %nexa status run\nx")["state"].unique().tolist() == ["COMPLETED"]
    assert value(ip, f"%nexa logs {run.id[:9]} 3") == "lr is 0.0001\n"
    assert value(ip, "%nexa logs 3 --tail 1") == "lr is 0.0001\n"


def test_a_command_after_two_dashes(ip):
    plan = value(ip, "home = 1\n%nexa preview lr=1,2 m='a b' --style env -- bash -c 'echo $$home {{}}' --time 3")
    assert plan.sweep.command == ("bash", "-c", "echo $home {}", "--time", "3")
    assert plan.sweep[1] == {"lr": 2, "m": "a b"}
    template = value(ip, "lr = 7\n%nexa preview lr=1,2 -- python train.py --lr={lr}")
    assert template.sweep.argv(1) == ["python", "train.py", "--lr=2"]


def test_options_are_the_fields_of_a_job(ip):
    plan = value(
        ip,
        "base = __import__('nexa_sdk').Job(time='1:00:00', gpus=2, modules=['cuda'])\n"
        "%nexa preview a=1 --job base --time 2:00:00 --mem 4G --env A=1 --env B=x=y --secret TOKEN --exclusive --no-requeue "
        "--option switches=1 --option spread-job --pre-command 'set +u' --cpus-per-task 4 --name try -- python -V",
    )
    assert plan.job == Job(
        time="2:00:00", gpus=2, modules=["cuda"], mem="4G", env={"A": "1", "B": "x=y"}, secrets=["TOKEN"], exclusive=True, requeue=False,
        options={"switches": 1, "spread-job": True}, pre_commands=["set +u"], cpus_per_task=4,
    )  # fmt: skip
    assert plan.id.startswith("try-")


def test_every_field_of_a_job_has_its_option(ip):
    text = value(ip, "%nexa preview -h")
    for field in Job.model_fields:
        option = "--" + field.replace("_", "-")
        assert option in text or option.removesuffix("s") in text


@pytest.mark.usefixtures("train")
def test_a_cell_of_yaml(ip):
    shown = value(ip, f"%%nexa sweep --out study\n{STUDY}")
    study = ip.user_ns["study"]
    assert isinstance(study, Definition)
    assert shown is study
    assert len(study) == 4
    assert list(study.trials()["seed"]) == [0, 1, 0, 1]
    assert "4 trials" in repr(study)
    assert "00:01:00" in study._repr_html_()
    plan = value(ip, "%nexa preview study --throttle 1")
    assert plan.job == Job(time="0:01:00", throttle=1)
    assert Cluster("local").plan(study).job == Job(time="0:01:00")
    assert value(ip, f"%%nexa preview --out plan\n{STUDY}").sweep.argv(0) == ["python", "train.py", "--lr", "1e-3", "--seed", "0"]
    assert ip.user_ns["plan"].job == Job(time="0:01:00")
    Path("study.yaml").write_text(STUDY)
    assert len(value(ip, "s = %nexa sweep study.yaml\ns")) == 4
    assert len(value(ip, "%nexa preview study.yaml").sweep) == 4
    assert "line 4" in str(error(ip, "%%nexa sweep\nsweep:\n  base_args: python x.py\n  parameters: {lr: []}\n  nam: 3"))


@pytest.mark.usefixtures("train")
def test_a_sweep_and_a_cluster_by_name(ip, tmp_path):
    ip.user_ns["sweep"] = Sweep("python train.py", grid={"lr": [1, 2]})
    ip.user_ns["here"] = Cluster("local", runs=tmp_path / "elsewhere")
    run = value(ip, "%nexa launch sweep --cluster here --time 0:01:00")
    assert run.folder.startswith(str(tmp_path / "elsewhere"))
    assert value(ip, f"%nexa connect local --runs {tmp_path}/third").runs_folder == str(tmp_path / "third")
    assert value(ip, "%nexa connect").runs_folder == str(tmp_path / "third")
    assert value(ip, "%nexa preview sweep").folder.startswith(str(tmp_path / "third"))


def test_a_cluster_that_a_file_describes(ip, tmp_path):
    text = f'[clusters.desk]\nhost = "local"\nruns = "{tmp_path}/desk"\n[clusters.desk.job]\ntime = "0:01:00"\n'
    Path("nexa.toml").write_text(text)
    assert "did you mean 'desk'" in str(error(ip, "%nexa connect dask"))
    assert value(ip, "%nexa connect desk").runs_folder == f"{tmp_path}/desk"
    assert value(ip, "%nexa preview x=1,2 -- true").job == Job(time="0:01:00")
    assert value(ip, "%nexa preview x=1,2 --time 0:02:00 -- true").job == Job(time="0:02:00")
    assert value(ip, "%nexa preview x=1,2 --cluster local -- true").job == Job()
    assert value(ip, f"%nexa connect desk --runs {tmp_path}/third").name == "desk"
    assert value(ip, "%nexa connect desk").runs_folder == f"{tmp_path}/third", "the connected one stays"
    Path("nexa.toml").write_text(text.replace("0:01:00", "0:03:00"))
    value(ip, "%nexa connect desk")
    assert value(ip, "%nexa preview x=1,2 -- true").job == Job(time="0:03:00")
    Path("nexa.toml").write_text(text.replace("time", "tmie"))
    assert "nexa.toml, line 5" in str(error(ip, "%nexa connect desk"))


def test_a_line_inside_a_function_sees_its_names(ip):
    code = "def f(rates):\n    best = 3\n    return get_ipython().run_line_magic('nexa', 'preview lr={rates} seed=$best -- python -V')\nf([1, 2])"
    assert value(ip, code).sweep[1] == {"lr": 2, "seed": 3}


@pytest.mark.usefixtures("train")
def test_run_all_twice_launches_once(ip, capsys):
    line = "%nexa launch train.py lr=1 sleep=0.5 --time 0:01:00"
    run = value(ip, line)
    assert value(ip, line).id == run.id
    assert "Launched nothing" in capsys.readouterr().out
    assert value(ip, f"{line} --again").id != run.id
    assert len(value(ip, "%nexa runs")) == 2


@pytest.mark.usefixtures("train")
def test_cancel_and_retry_some_trials(ip):
    run = value(ip, "%nexa launch train.py lr=1 seed=0..3 sleep=500 --time 0:10:00")
    deadline = time.monotonic() + 240
    assert value(ip, "%nexa cancel 0,2-3").id == run.id
    while list(run.status()["state"]).count("CANCELLED") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert run.status()["state"][1] in ("RUNNING", "PENDING")
    ip.user_ns.update(run=run, trials=[0, 3])
    assert value(ip, "%nexa retry $run {trials}").id == run.id
    assert list(run.status()["attempt"]) == [2, 1, 1, 2]
    assert value(ip, "%nexa logs 0 --attempt 1") is not None
    value(ip, "%nexa cancel")


@pytest.mark.usefixtures("train")
def test_another_process_attaches(ip):
    run = Cluster("local").launch(Sweep("python train.py", grid={"lr": [1, 2]}), time="0:01:00")
    assert value(ip, "%nexa status").index.tolist() == [0, 1]
    assert value(ip, f"%nexa attach {run.id[:8]}").id == run.id


def test_the_sandbox_that_is_not_there(ip):
    assert "There is no sandbox" in repr(value(ip, "%nexa sandbox status"))
    assert not value(ip, "%nexa sandbox stop").is_up


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("launc", BadUsage, "no verb 'launc'; did you mean 'launch'?"),
        ("launch", BadUsage, "nothing is named"),
        ("launch train.py --tiem 3", BadUsage, "there is no option --tiem; did you mean '--time'?"),
        ("launch train.py --time", BadUsage, "--time: expected one argument"),
        ("launch train.py other", BadUsage, "'other' is neither NAME=VALUES"),
        ("launch nothing", BadUsage, "no Python object 'nothing'"),
        ("launch number", BadUsage, "number is no Sweep, Plan or definition, but a int"),
        ("launch lr=1 --", BadUsage, "after -- stands no command"),
        ("launch train.py -- python x.py", BadUsage, "both to be launched"),
        ("launch missing.yaml", DefinitionError, "missing.yaml"),
        ("launch sweep lr=3", BadUsage, "leave out lr"),
        ("launch sweep --name x --style env", BadUsage, "leave out --style, --name"),
        ("launch plan --time 0:01:00", BadUsage, "leave out --time"),
        ("launch train.py lr=1 lr=2", SweepError, "given twice"),
        ("launch train.py lr=3..1", SweepError, "1..3"),
        ("launch train.py lr=1 --job nope", BadUsage, "no Job of that name"),
        ("launch train.py --time 5", JobError, "ambiguous"),
        ("launch train.py --gpus two", JobError, "'two'"),
        ("launch train.py --cluster loca", NexaError, "did you mean 'local'?"),
        ("launch train.py x='", BadUsage, "close the quote"),
        ("preview train.py --watch", BadUsage, "no option --watch"),
        ("status", RunNotFound, "nothing was launched yet; %nexa launch"),
        ("status nope", RunNotFound, "no run 'nope'"),
        ("status number", RunNotFound, "number is no Run but a int"),
        ("cancel nope x-3", BadUsage, "no list of trials"),
        ("logs a 1 2", BadUsage, "one word too many"),
        ("attach", BadUsage, "needs a run's id"),
        ("runs --limit 0", BadUsage, "1 or more"),
        ("sweep", BadUsage, "one YAML definition"),
        ("sandbox stat", BadUsage, "did you mean"),
        ("sandbox stop --nodes 3", BadUsage, "sandbox start"),
        ("connect slrm", NexaError, "did you mean 'slurm'?"),
        ("runs --out 3x", BadUsage, "no Python name"),
    ],
)
@pytest.mark.usefixtures("train")
def test_a_line_that_cannot_be_meant(ip, capsys, line, kind, words):
    ip.user_ns.update(number=3, sweep=Sweep("python train.py", grid={"lr": [1]}))
    ip.user_ns["plan"] = Cluster("local").plan(ip.user_ns["sweep"])
    found = error(ip, f"%nexa {line}")
    assert isinstance(found, kind)
    assert words in str(found)
    shown = capsys.readouterr().out
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1
    assert Cluster("local").journal.run_ids() == []


def test_a_cell_under_a_verb_that_reads_none(ip):
    assert "reads no cell" in str(error(ip, "%%nexa status\nsomething"))
    assert "give one of them" in str(error(ip, f"%%nexa launch train.py\n{STUDY}"))


# ---- Python in a line ----------------------------------------------------------------------------

NAMES = {
    "lr": 0.1, "name": "a b", "rates": [1e-3, 0.1], "texts": ["a,b", "c"], "cfg": {"k": {"x": 3}}, "flag": True, "nothing": None, "i": 3,
    "sweep": Sweep("python x.py", grid={"lr": [1]}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lr=$lr", ["lr=0.1"]),
        ("lr={lr}", ["lr=0.1"]),
        ("lr={lr * 2:.2f} {name!r}", ["lr=0.20", "'a b'"]),
        ("--name $name 'x $name'", ["--name", "a b", "x a b"]),
        ("lr={rates} seed={range(3)}", ["lr=0.001,0.1", "seed=0,1,2"]),
        ("t={texts}", ["t=a\\,b,c"]),
        ('x={cfg["k"]["x"]}', ["x=3"]),
        ("x={cfg['k']['x'] + 1} y={ {1: 2}[1] }", ["x=4", "y=2"]),
        ("x={','.join(str(n) for n in range(i))}", ["x=0,1,2"]),
        ("{flag} {nothing}", ["true", "null"]),
        ('\'{"a": 1, "b": {"c": []}}\'', ['{"a": 1, "b": {"c": []}}']),
        ("'{\"a\":1}'", ['{"a":1}']),
        ('\'{"a": {"b": 1}}\' {}', ['{"a": {"b": 1}}', "{}"]),
        ("'{\"a\": {lr}}'", ['{"a": 0.1}']),
        ("{{lr}} $$lr $5 $", ["{lr}", "$lr", "$5", "$"]),
        ("'[{{lr}}, {{{lr}}}]'", ["[{lr}, {0.1}]"]),
        ("$sweep", ["sweep"]),
        ("a  # the rest $nope", ["a"]),
        ("a#b 'c # d'", ["a#b", "c # d"]),
        ("lr=1,2 -- python --lr={lr} --i={i}", ["lr=1,2", "--", "python", "--lr={lr}", "--i=3"]),
    ],
)
def test_python_in_a_line(line, words):
    assert expand(split(line), NAMES) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a $lrr", "'lrr' (did you mean 'lr'?)"),
        ("a {lrr}", "'lrr' (did you mean 'lr'?)"),
        ("'{\"a\": {zzz}}'", "'zzz'"),
        ("{1/0}", "ZeroDivisionError"),
        ("x=$sweep", "is a Sweep, and no text"),
    ],
)
def test_python_in_a_line_that_fails(line, words):
    with pytest.raises(BadUsage) as caught:
        expand(split(line), NAMES)
    assert words in str(caught.value)


# ---- notebooks -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("train")
def test_a_saved_notebook_keeps_the_last_state(tmp_path):
    work = tmp_path / "work"
    saved = notebook(
        work,
        "run = %nexa launch train.py lr=1,2 sleep=1.5 --time 0:01:00 --watch\nrun",
        "run.wait(progress=False)\nview = %nexa watch",
        "table = %nexa results\nlist(table['loss'])",
    )
    launched, _, table = saved.cells[1:]
    widgets, output = launched.outputs  # the view alone: the run beside it would be out of date for ever
    assert "application/vnd.jupyter.widget-view+json" in widgets.data
    assert output.output_type == "display_data"
    assert "2 COMPLETED" in output.data["text/plain"]
    assert "RUNNING" not in output.data["text/html"]
    assert table.outputs[0].data["text/plain"] == "[2.0, 4.0]"
    assert Path(work / "saved.ipynb").stat().st_size < 200_000


@pytest.mark.usefixtures("train")
def test_an_error_is_an_output_and_nbmake_fails(tmp_path):
    work = tmp_path / "work"
    saved = notebook(work, "%nexa launch train.py lr=$nope", "%nexa launch train.py --time 5", allow_errors=True)
    first, second = (cell.outputs[0] for cell in saved.cells[1:])
    assert (first.output_type, first.ename) == ("error", "BadUsage")
    assert "there is no Python name 'nope'" in first.evalue
    assert len(first.traceback) == 1
    assert (second.output_type, second.ename) == ("error", "JobError")
    for name, cells in {"bad": ["%nexa launch train.py lr=$nope"], "good": ["%nexa runs"]}.items():
        nbformat.write(
            new_notebook(cells=[new_code_cell(cell) for cell in ("%load_ext nexa_sdk", *cells)], metadata=saved.metadata),
            work / f"{name}.ipynb",
        )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "-p", "no:cacheprovider", "bad.ipynb", "good.ipynb"],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "no Python name 'nope'" in done.stdout


def test_run_all_twice_and_a_secret_that_appears_nowhere(tmp_path, home, program, monkeypatch):
    program(TRAIN + "\nassert os.environ['WANDB_API_KEY'].startswith('planted')\n")
    monkeypatch.setenv("WANDB_API_KEY", "planted-3f9a61")
    cells = [
        "%nexa preview train.py lr=1 --secret WANDB_API_KEY --time 0:01:00",
        "run = %nexa launch train.py lr=1 --secret WANDB_API_KEY --time 0:01:00",
        "run.wait(progress=False)\nrun",
        "%nexa results",
        "run.job",
        "%nexa launch train.py lr=1 --secret=WANDB_API_KEY=planted-3f9a61",
        "%nexa launch train.py lr=1 --wandb-key=planted-3f9a61",
        "%nexa launch train.py lr=1 --env planted-3f9a61",
        "%nexa launch train.py lr=1 --env WANDB_API_KEY=planted-3f9a61",
    ]
    for _ in range(2):
        saved = notebook(tmp_path / "work", *cells, allow_errors=True)
    outputs = [output for cell in saved.cells[1:] for output in cell.outputs]
    assert [output.output_type for output in outputs].count("error") == 4
    assert "1 COMPLETED" in str(outputs)
    assert "planted" not in str(outputs)
    assert len(Cluster("local").journal.run_ids()) == 1
    for path in home.rglob("*"):
        assert not path.is_file() or b"planted" not in path.read_bytes(), path
