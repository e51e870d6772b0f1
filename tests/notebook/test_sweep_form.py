"""The form of a sweep without a browser: what it reads, what it writes, what it refuses."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Sweep, runs
from nexa_sdk.draft import Draft, Parameter
from nexa_sdk.errors import ClusterError, InvalidInput
from nexa_sdk.notebook import front_end
from nexa_sdk.notebook.sweep_picture import free_html
from nexa_sdk.notebook.views import sweep as sweep_view
from nexa_sdk.notebook.views.sweep import SweepView


@pytest.fixture(params=["all", "core"])
def form(request, monkeypatch, program):
    monkeypatch.setattr(front_end, "widgets", lambda: request.param)
    program("print(sys.argv)")
    view = SweepView(
        Draft(command="python train.py", parameters=[Parameter("x", "values", "1, 2")], job={"time": "0:01:00", "account": "ml"})
    )
    view.widget = view.build()
    yield view
    view.close()


def test_what_is_typed_is_what_is_planned_and_launched_once(form):
    wait_until(lambda: form.plan is not None)
    form._fields["name"].input.value = "study"
    form._fields["n"].input.value = ""
    wait_until(lambda: form.plan is not None and form.plan.sweep.name == "study")
    assert form._launch.description == "Launch 2 trials"
    assert form.draft.job_fields() == {"time": "0:01:00", "account": "ml"}
    wait_until(lambda: form._python.value == form.draft.python())
    wait_until(lambda: form._yaml.value == form.draft.yaml())
    plan = form.plan
    form._launch.click()
    form._launch.click()
    wait_until(lambda: form.run is not None)
    assert form.run.id == plan.id, "byte for byte what was seen"
    form.run.wait(timeout=240, progress=False)
    assert list(runs().index) == [plan.id]
    assert not form.status.words


def test_what_was_typed_before_the_click_and_came_after_it_launches_nothing(form, monkeypatch):
    monkeypatch.setattr(sweep_view, "HELD_BACK", 8.0)
    wait_until(lambda: form.plan is not None)
    form._launch.click()
    form._fields["time"].input.value = "0:02:00"
    wait_until(lambda: "the form was changed as it was launched" in form.status.words)
    assert form.run is None
    assert not runs().index.tolist()
    wait_until(lambda: form.plan is not None and not form._launch.disabled)
    monkeypatch.setattr(sweep_view, "HELD_BACK", 0.2)
    form._launch.click()
    wait_until(lambda: form.run is not None)
    assert list(runs().index) == [form.run.id]
    assert form._launch.disabled


def test_a_launch_that_failed_can_be_tried_again(form, monkeypatch):
    wait_until(lambda: form.plan is not None)
    home = Path(os.environ["NEXA_HOME"])
    home.parent.joinpath("file").write_text("")
    monkeypatch.setenv("NEXA_HOME", str(home.parent / "file" / "home"))
    form._launch.click()
    wait_until(lambda: "Error" in form.status.words or "file" in form.status.words)
    wait_until(lambda: not form._launch.disabled)
    monkeypatch.setenv("NEXA_HOME", str(home))
    form._launch.click()
    wait_until(lambda: form.run is not None)


def test_what_is_wrong_stands_at_its_field_and_goes_again(form):
    form._fields["time"].input.value = "soon"
    assert "soon" in form._fields["time"]._words.value
    assert form.plan is None
    assert form._launch.disabled
    form._rows.children[0].values_text.value = ""
    assert "it has no values" in form._rows.children[0].field._words.value
    form._fields["time"].input.value = "1:00:00"
    assert form._fields["time"]._words.layout.display == "none"
    form._fields["job"].input.value = "acount=ml"
    assert "did you mean &#x27;account&#x27;" in form._fields["job"]._words.value
    form._fields["job"].input.value = ""
    form._rows.children[0].values_text.value = "1..3"
    wait_until(lambda: form.plan is not None)
    assert len(form.plan.sweep) == 3


def test_what_is_wrong_leaves_no_preview_of_what_was_written_before(form):
    wait_until(lambda: form.plan is not None)
    form._rows.children[0].values_text.value = "1, 2, 3"
    form._rows.children[0].kind.value = "randint"
    assert "are 3 numbers" in form._rows.children[0].children[-1].value, "under the row, where there is room for it"
    shown = [form._said, form._trials, form._script]
    assert [widget.value for widget in shown] == ["", "", ""]
    texts = {form._python.value, form._yaml.value, *(button.text for button in form._copies.values())}
    assert [text.startswith("# not yet: parameter 0: ") for text in texts] == [True]
    assert form._launch.description == "Launch"
    form._rows.children[0].kind.value = "values"
    wait_until(lambda: all(widget.value for widget in shown), 60)
    form._fields["where"].input.value = "y < 1"  # which only the trials tell
    wait_until(lambda: "✗" in form._said.value, 60)
    assert "where=lambda trial: y < 1" in form._python.value
    assert not form._trials.value
    assert "counting" not in form._counted.value
    with pytest.raises(InvalidInput, match="no script yet"):
        form._save_script()


def test_the_signs_of_what_changed_stand_at_their_lines(form):
    wait_until(lambda: form._script.value)
    signs, script = re.findall(r"<pre style=\"([^\"]*)\"", form._script.value)
    assert "white-space:pre" in signs
    assert "white-space:pre" in script, "a line that wraps would move all below it away from their signs"


def test_a_script_can_be_saved_after_its_launch(form):
    wait_until(lambda: form.plan is not None)
    script = form.plan.script
    form._launch.click()
    wait_until(lambda: form.run is not None and "launch" not in form._working)
    form._save_script()
    assert Path("job.sbatch").read_text() == script
    assert form._check.disabled, "there is nothing to ask about"
    form.run.wait(timeout=240, progress=False)


def test_the_order_of_parameters_and_what_goes_side_by_side(form):
    form._add("y")
    row = form._rows.children[1]
    row.values_text.value = "7, 8"
    assert [dict(trial) for trial in form.draft.sweep()][:2] == [{"x": 1, "y": 7}, {"x": 1, "y": 8}]
    row.children[3].click()  # up
    assert [dict(trial) for trial in form.draft.sweep()][:2] == [{"y": 7, "x": 1}, {"y": 7, "x": 2}]
    for other in form._rows.children:
        other.kind.value = "zipped"
    assert [dict(trial) for trial in form.draft.sweep()] == [{"y": 7, "x": 1}, {"y": 8, "x": 2}]
    wait_until(lambda: "zipped={'y': [7, 8], 'x': [1, 2]}" in form._python.value)
    assert "2 trials" in form.html()


def test_a_launch_that_fails_while_something_is_wrong_stays_off(form, monkeypatch):
    monkeypatch.setattr(sweep_view, "HELD_BACK", 8.0)
    wait_until(lambda: form.plan is not None)
    form._launch.click()
    form._fields["time"].input.value = "soon"
    wait_until(lambda: "the form was changed as it was launched" in form.status.words)
    assert form._launch.disabled
    form._fields["time"].input.value = "1:00:00"
    wait_until(lambda: not form._launch.disabled)


def test_what_is_typed_while_a_launch_is_under_way_can_be_launched_next(form, monkeypatch):
    wait_until(lambda: form.plan is not None)
    first, gate = form.plan, threading.Event()

    def submit(plan):
        gate.wait(240)
        return first.submit()

    monkeypatch.setattr(form, "_submit_seen", submit)
    form._launch.click()
    form._fields["time"].input.value = "0:02:00"
    wait_until(lambda: form.plan not in (None, first))
    second = form.plan
    gate.set()
    wait_until(lambda: form.run is not None and "launch" not in form._working)
    assert (form.run.id, form.plan) == (first.id, second)
    assert not form._launch.disabled
    assert form._launch.description == "Launch 2 trials"


def test_what_the_cluster_said_of_an_older_plan_is_not_shown(form, monkeypatch):
    wait_until(lambda: form.plan is not None)
    plan, gate, preflight = form.plan, threading.Event(), type(form.plan).preflight
    monkeypatch.setattr(type(plan), "preflight", lambda self: [gate.wait(240), preflight(self)][1])
    form._check.click()
    form._fields["time"].input.value = "0:02:00"
    wait_until(lambda: form.plan not in (None, plan))
    said = form._said.value
    gate.set()
    wait_until(lambda: "ask the cluster" not in form._working)
    assert form._said.value == said
    assert not form._check.disabled


def test_a_name_that_comes_after_the_click_is_the_rows(form, monkeypatch):
    monkeypatch.setattr(sweep_view, "LATE", 60.0)
    form._add("")
    form._add_name.value = "late"
    assert [row.name_input.value for row in form._rows.children] == ["x", "late"]
    assert form._add_name.value == ""
    form._add_name.value = "next"  # is being typed
    assert [row.name_input.value for row in form._rows.children] == ["x", "late"]


def test_what_is_free_stands_under_the_cluster(form):
    wait_until(lambda: "cores free" in form._free.value)


def test_a_cluster_that_does_not_answer_shows_nothing_of_another_and_is_forgotten_with_its_choice(form, monkeypatch):
    wait_until(lambda: "cores free" in form._free.value)
    ask = sweep_view.partition_lines

    def answer(cluster):
        if cluster.name == "slurm":
            raise ClusterError("slurm does not answer")
        return ask(cluster)

    monkeypatch.setattr(sweep_view, "partition_lines", answer)
    form._fields["cluster"].input.value = "slurm"
    assert "cores free" not in form._free.value, "those of the other one"
    wait_until(lambda: form.status.words == "slurm does not answer", 60)
    form._fields["cluster"].input.value = "local"
    wait_until(lambda: "cores free" in form._free.value, 60)
    wait_until(lambda: not form.status.words, 60)


def test_of_many_partitions_the_first_are_shown_or_the_chosen_one():
    many = {f"p{n}": f"{n} of 99 cores free" for n in range(50)}
    assert free_html(many, "").count("cores free") == 6
    assert "… and 44 more partitions" in free_html(many, "p")
    assert "<b>p17</b> 17 of 99" in free_html(many, "p17")
    assert "p18" not in free_html(many, "p17")


def test_a_plan_that_the_cluster_refuses_is_said(form):
    form._fields["budget"].input.value = "1 USD"
    wait_until(lambda: form._said.value)
    assert form._launch.disabled or "price unknown" in form._said.value
    assert not runs().index.tolist()


def test_a_saved_script_overwrites_nothing_unasked(form):
    wait_until(lambda: form.plan is not None)
    form._save_script()
    assert Path("job.sbatch").read_text() == form.plan.script
    Path("job.sbatch").write_text("mine")
    form._save_script()
    assert Path("job.sbatch").read_text() == "mine"
    words, buttons = form._question.children
    assert "is another" in words.value
    buttons.children[0].click()
    wait_until(lambda: Path("job.sbatch").read_text() == form.plan.script)


def test_an_empty_form_is_nobodys_mistake_until_something_was_written(monkeypatch):
    monkeypatch.setattr(front_end, "widgets", lambda: "core")
    view = SweepView()
    view.widget = view.build()
    command = view._fields["command"]
    assert "python train.py" in view._counted.value
    assert 'role="alert"' not in command._words.value
    assert view._launch.disabled
    command.input.value = "python train.py"
    command.input.value = ""
    assert "nothing is said to run" in command._words.value
    view.close()


def test_a_sweep_is_edited_and_one_that_a_function_chose_is_not(capsys):
    sweep = Sweep("python t.py --data 'a b'", {"lr": [1e-3, 1e-4], "seed": range(3)}, fixed={"x": "a, b"}, env={"A": "1"}, name="study")
    draft = Draft.of(sweep)
    again = draft.sweep()
    assert [again.argv(i) for i in range(6)] == [sweep.argv(i) for i in range(6)]
    assert (again.name, draft.job_fields()) == ("study", {"env": {"A": "1"}})
    sweep.edit()
    assert "Sweep(" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match=r"can't be written in a form"):
        Sweep("p", {"a": [1, 2]}, where=lambda trial: trial["a"] > 1).edit()


def test_in_a_terminal_it_is_the_python(capsys):
    from nexa_sdk import ui

    ui.sweep(cluster=Cluster("local"))
    assert capsys.readouterr().out.startswith("# not yet: command: nothing is said to run")
