"""A run is found from its folder, where the journal does not know it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexa_sdk import Cluster, Sweep, attach
from nexa_sdk.errors import RunNotFound
from nexa_sdk.journal import Journal


def test_a_run_is_found_without_its_journal(local: Cluster, program) -> None:
    code = "sys.exit(sys.argv[2] == '1' and not os.path.exists('mended'))"
    run = local.launch(Sweep(program(code), {"x": [0, 1, 2]}), time="0:05:00").wait(check=False, progress=False)
    Path("mended").touch()
    run.retry().wait(progress=False)
    before = run.attempts()
    for path in Journal().path.parent.glob("journal.sqlite*"):
        path.unlink()
    with pytest.raises(RunNotFound, match="cluster="):
        attach(run.id)
    found = attach(run.id[:-2], cluster="local")
    assert found.id == run.id
    assert found.attempts().equals(before)
    assert found.results()["x"].tolist() == [0, 1, 2]
    assert attach(run.id).status()["state"].tolist() == ["COMPLETED"] * 3
    again = Cluster("local").launch(Sweep(program(code), {"x": [0, 1, 2]}), time="0:05:00")
    assert again.id == run.id, "the same plan is still the same run"


def test_what_is_no_run_is_not_found(local: Cluster) -> None:
    with pytest.raises(RunNotFound, match="has no folder in"):
        attach("train-12345678", cluster=local)
    Path(local.runs_folder, "train-12345678").mkdir(parents=True)
    with pytest.raises(RunNotFound, match=r"holds no plan\.json"):
        attach("train-1", cluster=local)
    Path(local.runs_folder, "train-1x").mkdir()
    with pytest.raises(RunNotFound, match="may be any of train-12345678, train-1x"):
        attach("train-1", cluster=local)


@pytest.mark.parametrize("name", ["plan.json", "submitted/{}-0.json"])
@pytest.mark.parametrize("content", ['{"id": "train-123', "[]", "{}", '"\xff"'])
def test_a_run_whose_files_were_cut_short_is_said(local: Cluster, program, name: str, content: str) -> None:
    run = local.launch(Sweep(program("")), time="0:05:00").wait(progress=False)
    for path in Journal().path.parent.glob("journal.sqlite*"):
        path.unlink()
    Path(run.folder, name.format(run.id)).write_text(content, encoding="latin-1")
    with pytest.raises(RunNotFound, match="can't be read .*: a full disk cut it short"):
        attach(run.id, cluster=local)
