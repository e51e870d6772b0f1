"""A draft: what its texts mean, what is wrong with them, and that Python and YAML say the same."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexa_sdk import Cluster, Sweep, choice, loguniform, normal, randint, uniform
from nexa_sdk.definition import load
from nexa_sdk.draft import KINDS, Draft, DraftError, Parameter
from nexa_sdk.errors import InvalidInput


def trials(sweep: Sweep) -> list[list[str]]:
    return [sweep.argv(i) for i in range(len(sweep))]


@pytest.mark.parametrize(
    ("kind", "text", "values"),
    [
        ("values", "1e-3, 1e-4", [0.001, 0.0001]),
        ("values", "0..3, 7", [0, 1, 2, 3, 7]),
        ("values", "adam", ["adam"]),
        ("values", "a b, [1,2], x\\,y", ["a b", "[1,2]", "x,y"]),
        ("range", "0, 1, 5", [0, 0.25, 0.5, 0.75, 1]),
        ("range", "2, 8, 4", [2, 4, 6, 8]),
        ("log range", "1e-4, 1e-1, 4", [0.0001, 0.001, 0.01, 0.1]),
    ],
)
def test_what_is_written_for_a_grid(kind, text, values):
    found = Parameter("x", kind, text).read()
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values] or kind == "range"


def test_a_long_range_costs_nothing_while_it_is_written():
    draft = Draft(command="p", parameters=[Parameter("x", "values", "1..1000000000")])
    assert draft.count() == 10**9
    assert draft.sweep()[10**9 - 1] == {"x": 10**9}
    assert "grid={'x': range(1, 1000000001)}" in draft.python()
    assert "x: {range: [1, 1000000001]}" in draft.yaml()
    for kind, text in (("values", "0..99999999999999999999999"), ("values", "1, 0..99999999999"), ("choice", "0..999999999")):
        assert "values" in Draft(command="p", n="1", parameters=[Parameter("x", kind, text)]).problems()["parameter 0"]


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (Parameter("x", "uniform", "0, inf"), "no finite numbers; write low, high"),
        (Parameter("x", "normal", "nan, 1"), "no finite numbers; write mean, deviation"),
        (Parameter("x", "range", f"1, {'1' * 400}, 3"), "no finite numbers"),
        (Parameter("x", "randint", "0.5, 2.5"), "no whole numbers, of which randint draws"),
        (Parameter("x", "values", ""), "it has no values"),
        (Parameter("x", "fixed", "1, 2"), "are 2 values"),
        (Parameter("x", "range", "0, 1"), "are 2 numbers; write first, last, how many"),
        (Parameter("x", "range", "0, 1, 2.5"), "give a whole number"),
        (Parameter("x", "log range", "0, 1, 3"), "lies above 0"),
        (Parameter("x", "uniform", "a, b"), "are no numbers; write low, high"),
        (Parameter("x", "uniform", "2, 1"), "low"),
        (Parameter("", "values", "1"), "it has no name"),
        (Parameter("y", "values", "1"), "'y' is there already"),
    ],
)
def test_what_is_wrong_stands_at_its_field(parameter, words):
    draft = Draft(command="python t.py", parameters=[Parameter("y", "values", "1"), parameter], n="3")
    assert words in draft.problems().get("parameter 1", ""), draft.problems()


def test_every_field_that_is_wrong_is_named():
    draft = Draft(command=" ", n="many", job={"time": "soon", "gpus": "-1", "partition": "a b"}, env="X", budget="fifty", where="lr <")
    assert draft.problems().keys() == {"command", "n", "where", "env", "budget"}
    assert Draft(command="p", job={"time": "soon", "gpus": "-1"}).problems().keys() == {"time", "gpus"}
    drawn = [Parameter("x", "uniform", "0, 1")]
    for n in ("0", "-5", "1000000000", "9" * 5000):
        assert Draft(command="p", parameters=drawn, n=n).problems().keys() == {"n"}
    assert Draft(command="p", parameters=drawn, n="5", name="(x").problems().keys() == {"name"}


def test_a_condition_in_the_parameters_own_names():
    draft = Draft(
        command="p", parameters=[Parameter("lr", "values", "1, 2, 3"), Parameter("n-layers", "values", "1, 2")], where="lr * n_layers <= 3"
    )
    assert [tuple(draft.sweep()[i].values()) for i in range(len(draft.sweep()))] == [(1, 1), (1, 2), (2, 1), (3, 1)]
    assert "where=lambda trial: trial['lr'] * trial['n-layers'] <= 3" in draft.python()
    with pytest.raises(DraftError, match="can't stand in YAML"):
        draft.yaml()


def same(draft: Draft) -> None:
    """Execute what the draft writes, and compare."""
    sweep = draft.sweep()
    seen = {}

    class Recorded:
        def __init__(self, name):
            seen["cluster"] = name

        def launch(self, sweep, **resources):
            seen.update(sweep=sweep, resources=resources)

    lines = draft.python().splitlines()
    space: dict[str, object] = {}
    exec(lines[0], space)
    space["Cluster"] = Recorded
    exec("\n".join(lines[1:]), space)
    assert trials(seen["sweep"]) == trials(sweep)
    assert (seen["sweep"].name, seen["sweep"].style) == (sweep.name, sweep.style)
    budget = seen["resources"].pop("budget", None)
    assert seen["resources"] == draft.job_fields()
    definition = load(draft.yaml())
    assert trials(definition.sweep) == trials(sweep)
    assert definition.job == draft.job_object()
    assert definition.cluster == draft.cluster == seen["cluster"]
    assert definition.budget == draft.budget_object()
    assert (budget is None) == (definition.budget is None)


def test_python_and_yaml_say_the_same():
    draft = Draft(
        cluster="sandbox",
        command="python train.py --data 'my data'",
        parameters=[
            Parameter("lr", "loguniform", "1e-5, 1e-2"),
            Parameter("seed", "values", "0..2"),
            Parameter("opt", "choice", "adam, on, 1"),
            Parameter("epochs", "fixed", "5"),
        ],
        n="4",
        seed="7",
        name="study",
        job={"time": "2:00:00", "gpus": "1", "mem": "16G", "throttle": "4", "modules": "cuda/12.1, gcc", "telemetry": "true"},
        env="A=1\nB=x y",
        budget="50 USD",
    )
    same(draft)
    plan = Cluster("local").plan(draft.sweep(), draft.job_object())
    assert Cluster("local").plan(load(draft.yaml()), budget=None, allow_unknown=True).script.count("adam") == plan.script.count("adam")


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6)
NUMBERS = st.one_of(st.integers(-1000, 1000), st.floats(1e-6, 1e6).map(lambda x: float(f"{x:.4g}"))).map(str)


@st.composite
def parameters(draw, name):
    kind = draw(st.sampled_from(list(KINDS)))
    if kind in ("values", "choice", "fixed"):
        values = draw(st.lists(st.one_of(WORDS, NUMBERS), min_size=1, max_size=1 if kind == "fixed" else 4))
        text = ",".join(value.replace("\\", "\\\\").replace(",", "\\,") for value in values)
    elif kind == "normal":
        text = "0.5, 2"
    else:
        low, high = sorted(draw(st.lists(st.integers(1, 99), min_size=2, max_size=2, unique=True)))
        text = f"{low}, {high}" + (f", {draw(st.integers(1, 4))}" if kind.endswith("range") else "")
    return Parameter(name, kind, text)


@settings(max_examples=150, deadline=None)
@given(st.tuples(parameters("a"), parameters("b"), parameters("c")))
def test_whatever_is_written_python_and_yaml_say_the_same(three):
    draft = Draft(command="python t.py", parameters=three, n="3")
    if not any(parameter.kind in ("uniform", "loguniform", "randint", "normal", "choice") for parameter in three):
        draft = Draft(command="python t.py", parameters=three)
    if draft.problems():  # brackets, say, that keep a comma
        return
    same(draft)


def test_zipped_ones_of_another_length_are_told_at_the_last():
    draft = Draft(command="p", parameters=[Parameter("a", "zipped", "1, 2"), Parameter("x", "values", "1"), Parameter("b", "zipped", "3")])
    assert draft.problems()["parameter 2"].startswith("zipped= needs lists of one length; these have a: 2, b: 1")


@pytest.mark.parametrize(
    "sweep",
    [
        Sweep("p", {"x": [1, 2]}, zipped={"a": [1.5, "b,c"], "b": [True, None]}, fixed={"e": 3}, name="n", env={"A": "1"}),
        Sweep("p", {"x": range(3)}, sample={"lr": loguniform(1e-5, 0.1), "s": randint(0, 9), "o": choice(["a", 2])}, n=60, seed=5),
        Sweep("p", sample={"u": uniform(0, 1), "g": normal(), "l": [1, 2]}, n=2),
        Sweep.from_trials("p", [{"a": 1}, {"a": 2, "b": "x"}]),
    ],
    ids=["zipped", "drawn", "more drawn", "explicit"],
)
def test_a_sweep_is_written_down_as_a_draft_that_means_the_same(sweep):
    draft = Draft.of(pickle.loads(pickle.dumps(sweep)))
    assert trials(draft.sweep()) == trials(sweep)
    assert (draft.sweep().name, draft.job_object().env) == (sweep.name, sweep.env)
    same(draft)


@pytest.mark.parametrize(
    "sweep",
    [
        Sweep("p", {"x": range(9)}, where=lambda trial: trial["x"] > 3),
        Sweep("p", {"x": range(9)}).sample(3),
        Sweep.from_trials("p", [{"a": n, "b": -n} for n in range(1001)]),
    ],
    ids=["where", "a sample", "too many"],
)
def test_what_no_draft_can_hold_is_refused(sweep):
    with pytest.raises(InvalidInput, match="can't be written in a form"):
        Draft.of(sweep)
