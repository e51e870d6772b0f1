"""The console command: the same verbs, as text, with exit statuses for scripts."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from nexa_sdk import Cluster, __version__
from nexa_sdk.cli import main

TRAIN = """
lr = float(sys.argv[sys.argv.index("--lr") + 1])
print("lr is", lr)
open(os.environ["NEXA_RESULTS"], "a").write(json.dumps({"loss": lr * 2, "a_rather_long_name_of_a_metric": "x" * 90}) + "\\n")
sys.exit(3 if lr > 5 else 0)
"""

STUDY = """\
job: {time: 0:01:00}
sweep:
  base_args: python train.py
  parameters: {lr: [1, 2]}
"""


@pytest.fixture
def nexa(capsys):
    """Run the command in this process; return its exit status and what it printed."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main(words)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def train(program):
    program(TRAIN)


@pytest.mark.usefixtures("train")
def test_a_run_from_the_first_line_to_the_last(nexa):
    status, out, _ = nexa("preview", "train.py", "lr=1,2", "--time", "0:01:00")
    assert status == 0
    assert "#SBATCH --array=0-1" in out
    assert nexa("runs")[1] == ""
    status, out, _ = nexa("launch", "train.py", "lr=1,2", "--time", "0:01:00", "--watch")
    assert status == 0
    assert "2 COMPLETED" in out
    (run_id,) = Cluster("local").journal.run_ids()
    assert nexa("launch", "train.py", "lr=1,2", "--time", "0:01:00")[1].startswith(f"Launched nothing: {run_id}")
    status, out, _ = nexa("status")
    assert out.count("COMPLETED") == 2
    _, out, _ = nexa("results", run_id[:8])
    assert out.count("x" * 90) == 2  # whole: no column and no cell is cut
    _, out, _ = nexa("results", "--csv")
    frame = pd.read_csv(io.StringIO(out), index_col="trial")
    assert frame["loss"].tolist() == [2.0, 4.0]
    _, out, _ = nexa("results", run_id, "--json")
    assert [json.loads(line)["loss"] for line in out.splitlines()] == [2.0, 4.0]
    assert nexa("logs", run_id, "1") == (0, "lr is 2.0\n", "")
    assert nexa("logs", "1", "--follow")[1] == "lr is 2.0\n"
    assert run_id in nexa("runs")[1]
    assert run_id in nexa("attach", run_id[:8])[1]


@pytest.mark.usefixtures("train")
def test_a_failed_run_that_is_watched_fails(nexa):
    assert nexa("launch", "train.py", "lr=1,9", "--time", "0:01:00", "--watch")[0] == 1
    assert nexa("watch")[0] == 1
    assert nexa("retry", "1")[0] == 0
    assert nexa("watch")[1].count("FAILED") == 2


@pytest.mark.usefixtures("train")
def test_a_definition(nexa):
    Path("study.yaml").write_text(STUDY)
    assert "2 trials" in nexa("sweep", "study.yaml")[1]
    status, out, _ = nexa("launch", "study.yaml")
    assert status == 0
    assert out.startswith("<Run train-")


def test_help_and_version(nexa):
    assert nexa("--version") == (0, f"nexa {__version__}\n", "")
    status, out, _ = nexa("--help")
    assert status == 0
    assert out.startswith("Usage: nexa VERB")
    status, out, _ = nexa("results", "-h")
    assert status == 0
    assert "--csv" in out
    assert "--out" not in out
    status, out, err = nexa()
    assert (status, out) == (2, "")
    assert "Usage" in err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["launc"], 2, "did you mean 'launch'?"),
        (["launch", "train.py", "--tiem", "3"], 2, "there is no option --tiem; did you mean '--time'?"),
        (["status", "nope"], 1, "there is no run 'nope'"),
        (["status"], 1, "nexa launch starts a run"),
        (["launch", "train.py", "--time", "5"], 1, "ambiguous"),
        (["launch", "nothing.py", "--time", "0:01:00"], 1, "there is no nothing.py"),
        (["sweep"], 2, "one YAML definition"),
        (["--nonsense"], 2, "no verb '--nonsense'"),
    ],
)
@pytest.mark.usefixtures("train")
def test_errors_are_one_line(nexa, words, status, said):
    got, out, err = nexa(*words)
    assert (got, out) == (status, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_what_a_shell_evaluates(nexa, tmp_path):
    _, out, _ = nexa("connect", "local", "--runs", str(tmp_path / "a folder"))
    code = f'{out}\necho "$NEXA_CLUSTER $NEXA_RUNS"'
    assert subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout == f"local {tmp_path}/a folder\n"
    Path("nexa.toml").write_text(f'[clusters.desk]\nhost = "local"\nruns = "{tmp_path}/desk"\n')
    for words, folder in (((), "desk"), (("--runs", f"{tmp_path}/third"), "third")):
        _, out, _ = nexa("connect", "desk", *words)
        code = f"{out}\n{sys.executable} -m nexa_sdk connect"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        said = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        assert f"export NEXA_CLUSTER=desk\nexport NEXA_RUNS={tmp_path}/{folder}\n" in said
    assert "There is no sandbox" in nexa("sandbox", "status")[1]


@pytest.mark.usefixtures("train")
def test_the_connected_cluster_comes_from_the_environment(nexa, monkeypatch):
    monkeypatch.setenv("NEXA_CLUSTER", "nowhere")
    status, _, err = nexa("preview", "train.py", "lr=1")
    assert status == 1
    assert "no cluster 'nowhere'" in err
    assert nexa("preview", "train.py", "lr=1", "--cluster", "local")[0] == 0


@pytest.mark.usefixtures("train")
def test_ctrl_c_and_a_reader_that_leaves():
    command = [sys.executable, "-m", "nexa_sdk"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    Path("slow.py").write_text("import time; time.sleep(280)")
    process = subprocess.Popen(
        [*command, "launch", "slow.py", "--time", "0:05:00", "--watch"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not Cluster("local").journal.run_ids() or not list(Cluster("local").journal.path.parent.rglob("*.started")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out == "" or "Detached" in out  # it may not have begun to wait yet
    assert Cluster("local").journal.outcome(Cluster("local").journal.run_ids()[0]) == "SUBMITTED"
    reader = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m nexa_sdk preview slow.py i=0..999 | head -1"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert reader.stdout.startswith("<Plan slow-")
    assert reader.stderr == ""
