"""A cell on the embedded cluster: what goes along, what comes back, and when it is executed anew."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from nexa_sdk import Cluster, Sweep, attach
from nexa_sdk.errors import CellFailed, InvalidInput
from nexa_sdk.remote.tape import Shown
from nexa_sdk.remote_cell import RemoteCell

MINUTE = "0:01:00"


def run(local: Cluster, code: str, **how: object) -> RemoteCell:
    return local.remote(code, time=MINUTE, **how)


def failure(cell: RemoteCell) -> CellFailed:
    with pytest.raises(CellFailed) as caught:
        cell.result(timeout=240)
    return caught.value


def shown(cell: RemoteCell) -> list[dict]:
    (path,) = Path(cell.run.folder, "cell").glob("*.shown")
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- there and back ------------------------------------------------------------------------------


def scale(x: float) -> float:
    return x * FACTOR


FACTOR = 3


def test_inputs_go_along_and_outputs_come_back(local: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    scale.__module__ = "__main__"  # as in a notebook: it goes along by value, with what it uses
    cell = run(
        local,
        "import dataclasses\n@dataclasses.dataclass\nclass Model:\n    w: float\nmodel = Model(scale(x))\nprint('fitted')\ntwice = lambda v: 2 * v\nmodel.w",
        inputs={"x": 2, "scale": scale},
        outputs=["model", "twice"],
    )
    found = cell.result(timeout=240)
    assert (found["model"].w, found["twice"](4)) == (6, 8)
    assert capsys.readouterr().out == "fitted\n6\n"
    assert cell.result(timeout=240)["model"].w == 6, "it can be had again"
    assert capsys.readouterr().out == "fitted\n6\n"
    cell.run.wait(timeout=240, progress=False)
    assert repr(cell) == f"<RemoteCell {cell.id} on local: COMPLETED → model, twice>"
    folder = Path(cell.run.folder, "cell")
    assert {stat.S_IMODE(path.stat().st_mode) for path in [*folder.glob("*.*"), *folder.glob("*/*.pickle")] if path.is_file()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_from_another_process_it_is_found_by_its_id(local: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cell = run(local, "print('hello'); y = 7", outputs=["y"])
    del cell.run.__dict__["cell"]
    assert attach(cell.id).cell.result(timeout=240) == {"y": 7}
    assert capsys.readouterr().out == "hello\n"
    sweep = local.launch(Sweep(["true"]), time=MINUTE)
    with pytest.raises(InvalidInput, match="is no remote cell: it was launched as a sweep"):
        _ = sweep.cell


def test_stdout_stderr_values_and_pictures_come_in_order(local: Cluster) -> None:
    from nexa_sdk.cell_following import follow
    from nexa_sdk.remote.tape import Text

    cell = run(
        local,
        "import sys\nprint('one')\ndisplay({'a': 1})\nprint('two', file=sys.stderr)\nh = display('x', display_id='d')\nh.update('y')\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('three')\nplt.plot([2, 1])\nimport os; os.system('echo four')\n"
        "from IPython.display import HTML, clear_output, display as shown\nshown(HTML('<b>five</b>'))\nclear_output(wait=True)\n!echo six\n7",
    )
    told = []
    for event in follow(cell.run, cell._transport):
        if isinstance(event, Text):
            told.append(event.text)
        elif isinstance(event, Shown):
            told.append(min(event.data) if len(event.data) > 1 else (event.data["text/plain"], event.display_id, event.is_update))
        else:
            told.append(type(event).__name__)
    told = [each for each in told if each != "Standing"]
    joined = [told[0]]
    for each in told[1:]:
        if isinstance(each, str) and each.endswith("\n") and isinstance(joined[-1], str) and joined[-1].endswith("\n"):
            joined[-1] += each
        else:
            joined.append(each)
    assert joined == [
        *("Begun", "one\n", ("{'a': 1}", None, False), "two\n", ("'x'", "d", False), ("'y'", "d", True)),
        *("image/png", "three\nfour\n", "text/html", "Cleared", "six\n", ("7", None, False), "image/png", "Ended"),
    ]


def test_a_table_a_plotly_figure_and_an_awaited_value(local: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cell = run(
        local,
        "import asyncio\nimport pandas as pd\ndisplay(pd.DataFrame({'a': [1]}))\nimport plotly.graph_objects as go\n"
        "go.Figure(go.Scatter(y=[1, 2])).show()\nawait asyncio.sleep(0, 'awaited')",
    )
    cell.result(timeout=240)
    kinds = [sorted(record["data"]) for record in shown(cell) if record["kind"] == "show"]
    assert kinds == [["text/html", "text/plain"], ["application/vnd.plotly.v1+json"], ["text/plain"]]
    assert "'awaited'" in capsys.readouterr().out


def test_a_module_is_imported_and_the_code_of_the_project_is_there(local: Cluster) -> None:
    Path("mine.py").write_text("def double(x):\n    return 2 * x\n")
    sys.path.insert(0, os.getcwd())
    try:
        import mine

        cell = run(local, "y = mine.double(x)", inputs={"mine": mine, "x": 4}, outputs=["y"])
        assert cell.result(timeout=240) == {"y": 8}
        plan = local.plan_remote("math.pi", namespace={"math": __import__("math"), "other": 1}, time=MINUTE)
        assert plan.cell is not None
        assert plan.cell.modules == {"math": "math"}, "what the cell uses is imported there, and nothing else goes along"
    finally:
        sys.path.remove(os.getcwd())
        sys.modules.pop("mine", None)


def test_large_ones_go_both_ways(local: Cluster) -> None:
    data = os.urandom(20_000_000)
    cell = run(local, "y = x[::-1]", inputs={"x": data}, outputs=["y"])
    assert cell.result(timeout=240)["y"] == data[::-1]


# ---- what is said before anything is sent ---------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "how", "words"),
    [
        ("y = x +", {}, "line 1 of the cell is no Python"),
        ("modle = 1", {"outputs": ["model"]}, "the cell does not define 'model'; did you mean 'modle'"),
        ("1", {"inputs": {"lock": threading.Lock()}}, "lock, of type lock, can't be pickled"),
        ("1", {"inputs": {"a-b": 1}}, "'a-b' is no Python name"),
        ("y = fit(x)", {"inputs": {"x": 1}, "namespace": {"x": 1, "fit": len}}, r"the cell uses fit, .* Name it \(-i x,fit\)"),
    ],
)
def test_what_can_not_work_is_said_and_nothing_is_sent(local: Cluster, home: Path, code: str, how: dict, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        local.plan_remote(code, time=MINUTE, **how)
    assert not home.exists()


# ---- errors --------------------------------------------------------------------------------------


def test_an_error_there_is_an_error_here(local: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    error = failure(run(local, "print('so far')\ndef f(x):\n    return 1 / x\nf(0)"))
    assert error.kind == "ZeroDivisionError"
    assert str(error).startswith("ZeroDivisionError: division by zero (line 3, remote-")
    assert error.traceback[0] == "Traceback (most recent call last):"
    assert '  File "<cell>", line 4, in <module>' in error.traceback
    assert "    return 1 / x" in error.traceback
    assert not any("nexa_cell" in line for line in error.traceback)
    assert capsys.readouterr().out == "so far\n"
    assert error.run.wait(check=False, progress=False).counts() == {"FAILED": 1}


@pytest.mark.parametrize(
    ("code", "outputs", "words"),
    [
        ("exec('z = 1')", ["y"], "the cell ended without defining 'y'"),
        ("y = (i for i in ())", ["y"], "the output y can't be pickled: TypeError"),
        ("import sys; sys.exit('enough')", [], "SystemExit: enough"),
        ("import os; os._exit(5)", [], "ended before its code did: it is FAILED, with exit code 5"),
    ],
)
def test_what_goes_wrong_there_is_said_in_words(local: Cluster, code: str, outputs: list[str], words: str) -> None:
    assert words in str(failure(run(local, code, outputs=outputs)))


def test_an_output_of_a_cell_that_exits_well_comes(local: Cluster) -> None:
    assert run(local, "import sys\ny = 1\nsys.exit()", outputs=["y"]).result(timeout=240) == {"y": 1}


def test_an_output_that_went_is_missed(local: Cluster) -> None:
    cell = run(local, "y = 1", outputs=["y"])
    cell.result(timeout=240)
    for path in Path(cell.run.folder, "cell", "outputs").iterdir():
        path.write_bytes(b"")
    assert "the output y has 0 of 5 bytes" in str(failure(cell))


def test_the_versions_of_both_pythons_are_told_where_they_matter(local: Cluster) -> None:
    """A function is bytecode, which another Python can't run; data is for all."""
    scale.__module__ = "__main__"
    another = [r"""sed -i 's/"python": [[][0-9, ]*]/"python": [3, 2, 1]/' "$run/cell/cell.json" """]  # the cell comes from an old one
    assert run(local, "y = f", inputs={"f": [1, 2]}, outputs=["y"], pre_commands=another).result(timeout=240) == {"y": [1, 2]}
    error = failure(run(local, "y = f(1)", inputs={"f": scale}, outputs=["y"], pre_commands=another))
    assert "f holds functions as bytecode of the notebook's Python 3.2.1, which" in str(error)
    assert "name a Python 3.2 with --python" in str(error)


def test_a_python_that_is_too_old_says_so(local: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "python3"
    old.write_text(f"#!/bin/bash\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 6, 8); exec(sys.argv[1])' \"$3\"\n")
    old.chmod(0o755)
    error = failure(run(local, "1", python=old))
    assert "it is FAILED, with exit code 78" in str(error)
    assert "a remote cell needs Python 3.8 or later, and" in capsys.readouterr().out
    assert local.plan_remote("1", python=old, time=MINUTE).sweep.command[0] == "python3"


# ---- once, and anew ------------------------------------------------------------------------------

COUNT = "open('count', 'a').write('.')\nimport time; time.sleep(1)\ny = len(open('count').read())"


def count() -> int:
    return len(Path("count").read_text())


def test_while_it_is_under_way_it_is_taken_up_and_once_told_it_is_executed_anew(local: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(local, COUNT, outputs=["y"])
    again = run(local, COUNT, outputs=["y"])
    assert again.id == first.id
    assert "Launched nothing" in capsys.readouterr().out
    assert again.result(timeout=240) == {"y": 1}
    anew = run(local, COUNT, outputs=["y"])
    assert anew.id != first.id
    assert anew.result(timeout=240) == {"y": 2}


def test_one_that_ended_while_nobody_waited_is_taken_up(local: Cluster) -> None:
    first = run(local, COUNT, outputs=["y"])
    first.run.wait(timeout=240, progress=False)
    assert run(local, COUNT, outputs=["y"]).result(timeout=240) == {"y": 1}
    assert count() == 1
    assert run(local, COUNT, outputs=["y"], again=True).result(timeout=240) == {"y": 2}


def test_one_that_failed_or_was_cancelled_is_executed_anew(local: Cluster) -> None:
    code = "import time\ntime.sleep(60)"
    first = run(local, code)
    first.cancel()
    assert "it is CANCELLED" in str(failure(first))
    second = run(local, code)
    assert second.id != first.id
    second.cancel().run.wait(timeout=240, check=False, progress=False)
    third = run(local, code)
    assert third.id != second.id
    third.cancel()


def test_other_inputs_are_another_execution(local: Cluster) -> None:
    cells = [run(local, "import time; time.sleep(0.5); y = x", inputs={"x": x}, outputs=["y"]) for x in (1, 2)]
    assert [cell.result(timeout=240) for cell in cells] == [{"y": 1}, {"y": 2}]


def test_a_launch_that_was_cut_short_is_made_whole_with_its_inputs(local: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel died between writing down what is to be submitted and submitting it."""
    from nexa_sdk.submission import Submitter

    with monkeypatch.context() as dying:
        dying.setattr(Submitter, "submit", lambda *_, **__: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            run(local, "y = x", inputs={"x": 5}, outputs=["y"])
    cell = run(Cluster("local"), "y = x", inputs={"x": 5}, outputs=["y"])
    assert cell.result(timeout=240) == {"y": 5}
    assert len(local.journal.runs()) == 1


def test_it_is_one_trial_of_a_run_like_any(local: Cluster) -> None:
    plan = local.plan_remote("y = 1", outputs=["y"], time=MINUTE, name="fit")
    assert plan.id.startswith("fit-")
    assert len(plan.sweep) == 1
    cell = plan.submit().cell
    cell.result(timeout=240)
    deadline = time.monotonic() + 240
    while local.journal.outcome(cell.id) != "COMPLETED" and time.monotonic() < deadline:
        time.sleep(0.1)  # what waited sees its end by itself
    assert local.journal.outcome(cell.id) == "COMPLETED"
    assert len(cell.run.cost().lines) == 1
