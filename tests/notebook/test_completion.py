"""Completion of %nexa lines, as a front end asks for it: through a kernel's complete_request, and in a shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel
from traitlets.config import Config

from nexa_sdk import Cluster, Job, Sweep
from nexa_sdk.notebook.magics.hook import add_hook


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.run_line_magic("load_ext", "nexa_sdk")
    return shell


@pytest.fixture
def files(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    for name in ("train.py", "study.yaml", "notes.txt", "data/x.py"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("pass\n")
    return work


def complete(ip: InteractiveShell, text: str) -> list[str]:
    """Return what a line may become."""
    with provisionalcompleter():
        return [text[: found.start] + found.text for found in ip.Completer.completions(text, len(text))]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("%nexa la", ["%nexa launch"]),
        ("%nexa re", ["%nexa remote", "%nexa results", "%nexa retry", "%nexa resume"]),
        ("%%nexa remote -i my_s", ["%%nexa remote -i my_sweep"]),
        (
            "%%nexa remote -i my_sweep,my_",
            ["%%nexa remote -i my_sweep,my_cluster", "%%nexa remote -i my_sweep,my_number", "%%nexa remote -i my_sweep,my_plan"],
        ),
        ("%%nexa remote --det", ["%%nexa remote --detach"]),
        ("x = %nexa la", ["x = %nexa launch"]),
        ("a.b, c[0] = %nexa prev", ["a.b, c[0] = %nexa preview"]),
        ("%%nexa sw", ["%%nexa sweep"]),
        ("1 + 2\n  run = %nexa atta", ["1 + 2\n  run = %nexa attach"]),
        ("%nexa launch train.py --gpus-per", ["%nexa launch train.py --gpus-per-node", "%nexa launch train.py --gpus-per-task"]),
        ("%nexa launch --style h", ["%nexa launch --style hydra"]),
        ("%nexa launch --style=h", ["%nexa launch --style=hydra"]),
        ("%nexa launch --cluster lo", ["%nexa launch --cluster local"]),
        ("%nexa launch train.py --job ba", ["%nexa launch train.py --job base"]),
        ("%nexa launch tr", ["%nexa launch train.py"]),
        ("%nexa launch data/", ["%nexa launch data/x.py"]),
        ("%nexa launch my_", ["%nexa launch my_sweep", "%nexa launch my_plan"]),
        ("%%nexa sweep st", ["%%nexa sweep study.yaml"]),
        ("%nexa launch -- python no", ["%nexa launch -- python notes.txt"]),
        ("%nexa connect my", ["%nexa connect my_cluster"]),
        ("%nexa sandbox sta", ["%nexa sandbox start", "%nexa sandbox status"]),
        ("%nexa launch train.py --partition g", ["%nexa launch train.py --partition gpu"]),
    ],
)
@pytest.mark.usefixtures("files")
def test_a_line(ip, text, whole):
    ip.user_ns["base"] = Job(time="0:10:00")
    ip.user_ns["my_sweep"] = Sweep("python train.py", grid={"lr": [1]})
    ip.user_ns["my_cluster"] = Cluster("local")
    ip.user_ns["my_plan"] = ip.user_ns["my_cluster"].plan(ip.user_ns["my_sweep"])
    ip.user_ns["my_number"] = 3
    magics = ip.magics_manager.registry["NexaMagics"]
    magics.session.partitions["local"] = ["gpu", "cpu"]  # as connect leaves them
    assert complete(ip, text) == whole


@pytest.mark.usefixtures("files")
def test_runs_by_id_and_by_name(ip):
    run = Cluster("local").launch(Sweep("python train.py", grid={"lr": [1]}), time="0:01:00")
    ip.user_ns["train_run"] = run
    assert complete(ip, "%nexa status tr") == ["%nexa status train_run", f"%nexa status {run.id}"]
    assert complete(ip, f"x = %nexa logs {run.id[:-2]}") == [f"x = %nexa logs {run.id}"]


@pytest.mark.usefixtures("files")
def test_clusters_of_a_file(ip):
    Path("nexa.toml").write_text('[clusters.desk]\nhost = "local"\n')
    assert complete(ip, "%nexa connect de") == ["%nexa connect desk"]
    Path("nexa.toml").write_text("no TOML")
    assert complete(ip, "%nexa connect sl") == ["%nexa connect slurm"]


@pytest.mark.usefixtures("files")
def test_other_lines_are_left_alone(ip):
    ip.Completer.use_jedi = False  # it answers nothing when it took too long
    assert "lambda" in complete(ip, "la")
    assert not [word for word in complete(ip, "print('%nexa la") if "launch" in word]


def test_a_damaged_journal_disturbs_nobody(ip, home, capsys):
    home.mkdir()
    (home / "journal.sqlite").write_text("no database")
    complete(ip, "%nexa status xy")
    assert "Traceback" not in capsys.readouterr().err
    (home / "journal.sqlite").unlink()


@pytest.mark.usefixtures("files")
def test_the_old_hook(ip):
    """Where IPython has no matchers of version 2."""
    ip.run_line_magic("unload_ext", "nexa_sdk")
    seen = []
    add_hook(ip, lambda line: seen.append(line) or ("--gpus-per", ["--gpus-per-node"]))
    assert "%nexa launch --gpus-per-node" in complete(ip, "%nexa launch --gpus-per")
    assert seen == ["%nexa launch --gpus-per"]


@pytest.fixture
def kernel(files) -> Iterator[object]:
    manager, client = start_new_kernel(startup_timeout=240, kernel_name="python3", cwd=str(files))
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_through_a_kernel(kernel):
    kernel.execute_interactive("%load_ext nexa_sdk\nfrom nexa_sdk import Sweep\nmine = Sweep('python train.py', {'lr': [1]})", timeout=240)

    def ask(text: str) -> list[str]:
        content = kernel.complete(text, reply=True, timeout=240)["content"]
        return [text[: content["cursor_start"]] + match + text[content["cursor_end"] :] for match in content["matches"]]

    assert ask("%nexa la") == ["%nexa launch"]
    assert ask("x = %nexa la") == ["x = %nexa launch"]
    assert ask("%%nexa sw") == ["%%nexa sweep"]
    assert ask("x = %nexa launch mi") == ["x = %nexa launch mine"]
    assert ask("%nexa launch train.py --thr") == ["%nexa launch train.py --throttle"]
    assert ask("%nexa launch st") == ["%nexa launch study.yaml"]
