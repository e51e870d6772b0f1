"""Sweeps: what a person says to try, and the words that each trial's program receives."""

import copy
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexa_sdk.distributions import choice, loguniform, uniform
from nexa_sdk.errors import SweepError
from nexa_sdk.passing import environment, pieces
from nexa_sdk.sweep import Sweep
from nexa_sdk.values import parse_scalar

BILLION = {"a": range(1000), "b": list(range(1000)), "c": [k / 1000 for k in range(1000)]}


# ---- what to try -----------------------------------------------------------------------------


def test_a_grid_is_every_combination_with_the_last_parameter_varying_fastest():
    sweep = Sweep("python train.py", grid={"lr": [1e-3, 1e-4], "seed": range(3)})
    assert len(sweep) == 6
    assert list(sweep) == [{"lr": lr, "seed": seed} for lr in (1e-3, 1e-4) for seed in range(3)]
    assert sweep[-1] == sweep[5] == {"lr": 1e-4, "seed": 2}
    assert sweep[1:3] == [{"lr": 1e-3, "seed": 1}, {"lr": 1e-3, "seed": 2}]
    with pytest.raises(IndexError):
        sweep[6]


def test_zipped_values_vary_together_beside_the_grid():
    sweep = Sweep("p", grid={"seed": [0, 1]}, zipped={"width": [1, 2], "depth": [8, 4]})
    assert [tuple(trial.values()) for trial in sweep] == [(0, 1, 8), (0, 2, 4), (1, 1, 8), (1, 2, 4)]


def test_zipped_values_of_different_lengths_are_refused():
    with pytest.raises(SweepError, match="one length; these have a: 2, b: 1"):
        Sweep("p", zipped={"a": [1, 2], "b": [1]})


def test_fixed_parameters_stand_in_every_trial():
    sweep = Sweep("p", grid={"lr": [1]}, fixed={"epochs": 3})
    assert sweep[0] == {"lr": 1, "epochs": 3}
    assert sweep.parameters == ("lr", "epochs")


def test_a_command_without_parameters_is_one_trial():
    sweep = Sweep("python train.py")
    assert (len(sweep), sweep[0], sweep.argv(0)) == (1, {}, ["python", "train.py"])


def test_draws_are_the_same_for_the_same_seed():
    def drawn(**how):
        return list(Sweep("p", sample={"lr": loguniform(1e-5, 1e-1), "opt": choice(["a", "b"])}, n=10, **how))

    assert drawn() == drawn(seed=0)
    assert drawn() != drawn(seed=1)
    assert len(drawn()) == 10


def test_draws_vary_beside_a_grid():
    sweep = Sweep("p", grid={"seed": [0, 1]}, sample={"lr": uniform(0, 1)}, n=3)
    assert len(sweep) == 6
    assert [t["lr"] for t in sweep[:3]] == [t["lr"] for t in sweep[3:]]


@pytest.mark.parametrize("how", [{}, {"n": 0}, {"n": -1}])
def test_draws_need_their_number(how):
    with pytest.raises(SweepError, match="sample= needs n="):
        Sweep("p", sample={"lr": uniform(0, 1)}, **how)


def test_a_number_of_draws_without_draws_points_to_sample():
    with pytest.raises(SweepError, match=r"use sweep\.sample\(5\)"):
        Sweep("p", grid={"lr": range(10)}, n=5)


def test_a_predicate_keeps_the_trials_where_it_holds():
    sweep = Sweep("p", grid={"a": range(3), "b": range(3)}, where=lambda t: t["a"] > t["b"])
    assert [tuple(t.values()) for t in sweep] == [(1, 0), (2, 0), (2, 1)]


# ---- laziness --------------------------------------------------------------------------------


def test_a_billion_trials_take_no_memory():
    Sweep("p", grid={"a": [1]}).trials()  # pandas' first frame is not a sweep's memory
    tracemalloc.start()
    try:
        sweep = Sweep("python train.py", grid=BILLION)
        assert len(sweep) == 10**9
        assert sweep[123_456_789] == {"a": 123, "b": 456, "c": 0.789}
        assert sweep.argv(10**9 - 1) == ["python", "train.py", "--a", "999", "--b", "999", "--c", "0.999"]
        assert list(sweep.trials(first=2)["c"]) == [0.0, 0.001]
        assert len(sweep.sample(1000)) == 1000
        assert "1,000,000,000 trials" in repr(sweep)
        assert next(iter(sweep)) == sweep[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6


def test_a_table_of_a_billion_trials_is_refused_and_says_how_to_see_some():
    with pytest.raises(SweepError, match=r"a table of 1,000,000,000 trials would fill the memory; ask for some: trials\(first=1000\)"):
        Sweep("p", grid=BILLION).trials()


def test_more_trials_than_len_can_say_are_shown_and_drawn_from():
    sweep = Sweep("p", grid={name: range(10**6) for name in "abcd"})
    assert "1,000,000,000,000,000,000,000,000 trials" in repr(sweep)
    assert len(sweep.sample(5)) == 5
    assert sweep[10**23] == {"a": 100_000, "b": 0, "c": 0, "d": 0}
    assert len(sweep.trials(first=3)) == 3


def test_a_repr_asks_no_predicate():
    def never(_):
        raise AssertionError

    sweep = Sweep("p", grid=BILLION, where=never)
    assert "some of 1,000,000,000 trials" in repr(sweep)
    with pytest.raises(SweepError, match=r"counted only up to 10,000,000"):
        len(sweep)


def test_the_first_trials_that_a_predicate_leaves_of_a_billion_are_found():
    sweep = Sweep("p", grid=BILLION, where=lambda t: t["b"] == 7)
    assert list(sweep.trials(first=2)["c"]) == [0.0, 0.001]
    assert all(trial["b"] == 7 for trial in sweep.sample(20))


def test_a_sample_is_in_order_without_doubles_and_the_same_for_its_seed():
    sweep = Sweep("p", grid={"x": range(100)})
    drawn = [t["x"] for t in sweep.sample(10)]
    assert drawn == sorted(set(drawn))
    assert drawn == [t["x"] for t in sweep.sample(10, seed=0)]
    assert drawn != [t["x"] for t in sweep.sample(10, seed=1)]
    assert {t["x"] for t in sweep.sample(10).sample(3)} <= set(drawn)
    with pytest.raises(SweepError, match="would be empty"):
        sweep.sample(0)


# ---- tables ----------------------------------------------------------------------------------


def test_trials_are_a_frame_with_a_row_each():
    frame = Sweep("p", grid={"lr": [0.1, 0.2], "seed": range(2)}, fixed={"opt": "adam"}).trials()
    expected = pd.DataFrame(
        {"lr": [0.1, 0.1, 0.2, 0.2], "seed": [0, 1, 0, 1], "opt": ["adam"] * 4},
        index=pd.RangeIndex(4, name="trial"),
    )
    pd.testing.assert_frame_equal(frame, expected)


def test_explicit_trials_lack_what_their_row_lacks():
    sweep = Sweep.from_trials("p", [{"a": 1}, {"b": "x"}, {"a": None, "b": "y"}])
    assert [sweep.argv(i) for i in range(3)] == [["p", "--a", "1"], ["p", "--b", "x"], ["p", "--b", "y"]]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([], "the sweep is empty"),
        ([{}], "no parameters"),
        ([{"a": 1}, 3], "trial 1: 3 is no mapping"),
        ({"a": 1}, "trial 0: 'a' is no mapping"),
    ],
)
def test_explicit_trials_that_are_none(rows, complaint):
    with pytest.raises(SweepError, match=complaint):
        Sweep.from_trials("p", rows)


def test_a_frame_s_missing_values_are_not_passed_and_numpy_s_become_python_s():
    frame = pd.DataFrame(
        {
            "lr": np.array([0.1, np.nan]),
            "n": pd.array([1, None], dtype="Int64"),
            "flag": np.array([True, False]),
            "name": ["a", None],
        }
    )
    sweep = Sweep.from_frame("p", frame)
    assert list(sweep) == [{"lr": 0.1, "n": 1, "flag": True, "name": "a"}, {"lr": None, "n": None, "flag": False, "name": None}]
    assert {type(value) for trial in sweep for value in trial.values()} == {float, int, bool, str, type(None)}
    assert sweep.argv(0) == ["p", "--lr", "0.1", "--n", "1", "--flag", "--name", "a"]
    assert sweep.argv(1) == ["p"]


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame(index=[0, 1])])
def test_an_empty_frame_is_an_empty_sweep(frame):
    with pytest.raises(SweepError, match="the sweep is empty"):
        Sweep.from_frame("p", frame)


@pytest.mark.parametrize("columns", [["a", "a"], [1, "1"]])
def test_columns_of_one_name_are_refused(columns):
    with pytest.raises(SweepError, match="columns of the same name"):
        Sweep.from_frame("p", pd.DataFrame([[1, 2]], columns=columns))


# ---- how parameters reach the program --------------------------------------------------------


def test_flags_are_dashed_and_a_boolean_is_bare_or_nothing():
    sweep = Sweep("p", fixed={"learning_rate": 0.001, "amp": True, "ema": False, "resume": None, "name": ""})
    assert sweep.argv(0) == ["p", "--learning-rate", "0.001", "--amp", "--name", ""]


def test_hydra_gets_every_parameter_as_key_and_value():
    sweep = Sweep("p", fixed={"optimizer.lr": 0.1, "+seed": 1, "amp": True, "ckpt": None, "a/b@c": "x y"}, style="hydra")
    assert sweep.argv(0) == ["p", "optimizer.lr=0.1", "+seed=1", "amp=true", "ckpt=null", "a/b@c=x y"]


def test_variables_carry_parameters_and_the_words_stay():
    sweep = Sweep("p", fixed={"LR": 0.1, "AMP": False, "CKPT": None}, style="env")
    assert sweep.argv(0) == ["p"]
    assert environment(sweep, sweep[0]) == {"LR": "0.1", "AMP": "false"}


def test_a_template_has_parameters_where_it_says():
    sweep = Sweep("p --lr={lr} out/{seed}-{lr}.json", grid={"lr": [0.1], "seed": [3]})
    assert sweep.style == "template"
    assert sweep.argv(0) == ["p", "--lr=0.1", "out/3-0.1.json"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("{{x}}", "{x}"),
        ("{{{x}}}", "{1}"),
        ("{x}{x}", "11"),
        ('{{"a": {x}}}', '{"a": 1}'),
        ("{", "{"),
        ("{}", "{}"),
        ("{0}", "{0}"),
        ("}} {x} {{", "} 1 {"),
    ],
)
def test_braces_that_are_meant_are_doubled(word, meant):
    assert Sweep(["p", word, "{x}"], fixed={"x": 1}).argv(0) == ["p", meant, "1"]


@given(st.lists(st.sampled_from(["{{", "}}", "{x}", "a", " ", "{y.z}"])))
def test_a_template_is_cut_into_literals_and_names_without_loss(parts):
    spelled = "".join(
        literal.replace("{", "{{").replace("}", "}}") + (f"{{{name}}}" if name else "") for literal, name in pieces("".join(parts))
    )
    assert spelled == "".join(parts)


def test_braces_without_a_parameter_s_name_leave_flags_alone():
    sweep = Sweep(["p", '{"a": 1}', "{}"], fixed={"lr": 1})
    assert sweep.argv(0) == ["p", '{"a": 1}', "{}", "--lr", "1"]


def test_a_number_that_was_written_reaches_the_program_as_written():
    assert Sweep("p", grid={"lr": [parse_scalar("1e-3")]}).argv(0) == ["p", "--lr", "1e-3"]
    assert Sweep("p", grid={"lr": [1e-3]}).argv(0) == ["p", "--lr", "0.001"]


@pytest.mark.parametrize("text", ["a b", "a\nb", "$(touch x)", "`id`", "*", "-x", "", "'\"\\", "ünï☃😀", "\x7f\x1b"])
@pytest.mark.parametrize("style", ["flags", "hydra", "template"])
def test_any_text_is_one_word(text, style):
    command = ["p", "{x}"] if style == "template" else ["p"]
    words = Sweep(command, fixed={"x": text}, style=style).argv(0)
    assert words[-1] == (f"x={text}" if style == "hydra" else text)


# ---- the command -----------------------------------------------------------------------------


def test_text_is_split_as_a_shell_splits_and_a_list_is_taken_as_it_is():
    assert Sweep("python 'my train.py' --a \"b c\"").command == ("python", "my train.py", "--a", "b c")
    assert Sweep(["python", Path("a b.py"), "|", "$HOME"]).command == ("python", "a b.py", "|", "$HOME")


@pytest.mark.parametrize("command", ["p | tee log", "p > log", "p 2>&1", "p && q", "p ; q", "p &", "p < in"])
def test_a_shell_s_words_in_text_are_refused_because_no_shell_reads_them(command):
    with pytest.raises(SweepError, match=r'no shell reads it.*write \["bash", "-c"'):
        Sweep(command)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("", "names no program"),
        ([], "names no program"),
        (["", "a"], "names no program"),
        ("p 'a", "can't be split into words: No closing quotation"),
        (["p", 5], "the word 5 is no text; write it as '5'"),
        (["p", b"x"], "is no text"),
        (["p", "a\0"], "NUL"),
        (["p", "\ud800"], "lone surrogate"),
        (5, "give text, or a list of words"),
    ],
)
def test_a_command_that_can_t_be_meant(command, complaint):
    with pytest.raises(SweepError, match=complaint):
        Sweep(command)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python train.py", "train"),
        ("python -m pkg.train", "train"),
        ("torchrun --standalone x/fine_tune.py", "fine_tune"),
        ("./a.out", "a.out"),
        ("ünïcode", "n-code"),
        (["***"], "run"),
        (["x" * 100], "x" * 40),
    ],
)
def test_a_run_is_named_after_its_program(command, name):
    assert Sweep(command).name == name


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"grid": {"lr": []}}, "'lr' has no values"),
        ({"grid": {"lr": [1]}, "fixed": {"lr": 2}}, "'lr' is given twice"),
        ({"grid": {"lr": [1]}, "zipped": {"lr": [2]}}, "'lr' is given twice"),
        ({"grid": {"a_b": [1], "a-b": [2]}}, "'a_b' and 'a-b' are one flag, --a-b"),
        ({"grid": {"lr rate": [1]}}, "'lr rate' can't be passed as flags"),
        ({"grid": {"--lr": [1]}}, "without dashes before it"),
        ({"grid": {"": [1]}}, "'' can't be passed"),
        ({"grid": {"a=b": [1]}}, "'a=b' can't be passed"),
        ({"grid": {"a=b": [1]}, "style": "hydra"}, "can't be passed as hydra"),
        ({"grid": {"a.b": [1]}, "style": "env"}, "can't be passed as env"),
        ({"grid": {"lré": [1]}, "style": "env"}, "can't be passed as env"),
        ({"grid": {"SLURM_JOB_ID": [1]}, "style": "env"}, "belong to the scheduler"),
        ({"grid": {5: [1]}}, "parameter 5 is no text"),
        ({"grid": {"lr": 0.1}}, "is one value; write a list"),
        ({"grid": {"lr": [[1, 2]]}}, "is no scalar"),
        ({"fixed": {"lr": [1, 2]}}, "is no scalar"),
        ({"fixed": {"x": "a\0"}}, "NUL"),
        ({"grid": {"x": ["\udc80"]}}, "lone surrogate"),
        ({"grid": [("lr", [1])]}, "grid=.* is no mapping"),
        ({"fixed": ["lr"]}, "fixed=.* is no mapping"),
        ({"style": "flag"}, "did you mean 'flags'"),
        ({"grid": {"x": [True, 1]}}, "mixes booleans and other values"),
        ({"name": "a b"}, "such as 'a-b'"),
        ({"name": 5}, "name 5"),
        ({"name": "x" * 41}, "at most 40"),
        ({"tags": ["a,b"]}, "without a comma"),
        ({"tags": [5]}, "tags: 5"),
        ({"wandb_group": 5}, "wandb_group=5"),
        ({"env": {"1A": "x"}}, "no name of an environment variable"),
        ({"env": {"A": 5}}, "give text"),
        ({"env": {"SBATCH_X": "5"}}, "belongs to the scheduler"),
        ({"env": {"A": "\0"}}, "NUL"),
    ],
)
def test_what_can_t_be_meant_is_refused(how, complaint):
    with pytest.raises(SweepError, match=complaint):
        Sweep("p", **how)


@pytest.mark.parametrize(
    ("command", "how", "complaint"),
    [
        ("p {lrr}", {"grid": {"lr": [1]}}, r"the command says \{lrr\}, which is no parameter: did you mean 'lr'"),
        ("p {lr}", {}, r"which is no parameter: the sweep has none"),
        ("p {lr}", {"grid": {"lr": [1], "seed": [1]}}, r"'seed' stands nowhere in the command's template; write \{seed\}"),
        ("p", {"grid": {"lr": [1]}, "style": "template"}, "stands nowhere"),
        ("p {lr}", {"grid": {"lr": [1, None]}}, "'lr' has a None, which a template can't leave out"),
        ("p {lr}", {"fixed": {"lr": None}}, "None, which a template can't leave out"),
    ],
)
def test_a_template_that_can_t_be_filled(command, how, complaint):
    with pytest.raises(SweepError, match=complaint):
        Sweep(command, **how)


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password", "OPENAI_APIKEY"])
def test_a_variable_that_looks_like_a_secret_is_refused_without_its_value(name):
    with pytest.raises(SweepError, match=f"{name}.*looks like a secret") as refused:
        Sweep("p", env={name: "hunter2"})
    assert "hunter2" not in str(refused.value)


# ---- a value ---------------------------------------------------------------------------------


def test_nothing_in_a_sweep_changes():
    sweep = Sweep("p", grid={"lr": [1]})
    with pytest.raises(AttributeError, match="make another one to set name"):
        sweep.name = "x"


def test_a_sweep_does_not_follow_the_lists_it_was_made_of():
    values, variables = [1, 2], {"A": "1"}
    sweep = Sweep("p", grid={"lr": values}, env=variables)
    values.append(3)
    variables["B"] = "2"
    assert (len(sweep), dict(sweep.env)) == (2, {"A": "1"})


def test_a_sweep_is_copied_and_pickled():
    sweep = Sweep("p", grid={"lr": [1, 2]}, fixed={"a": parse_scalar("1e-3")}, tags=["t"], env={"A": "1"}).sample(1)
    for twin in (copy.deepcopy(sweep), copy.copy(sweep), pickle.loads(pickle.dumps(sweep))):
        assert (list(twin), twin.argv(0), twin.tags, twin.env) == (list(sweep), sweep.argv(0), ("t",), {"A": "1"})


def test_a_repr_says_what_and_how_much():
    assert repr(Sweep("python train.py", grid={"lr": [1, 2]})) == "<Sweep 'python train.py': 2 trials of lr>"
    assert repr(Sweep("p")) == "<Sweep 'p': 1 trial of no parameters>"
