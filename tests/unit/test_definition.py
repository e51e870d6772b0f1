"""Definitions in YAML: what they mean, and where they are wrong."""

import re
import shlex
import textwrap
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import nexa_sdk.definition
from nexa_sdk import Budget, Cluster, Sweep
from nexa_sdk.definition import Definition, Launcher, SweepDefinition, build, load
from nexa_sdk.errors import DefinitionError, NexaError, SweepError
from nexa_sdk.job import Job


def read(text: str) -> Definition:
    return load(textwrap.dedent(text))


def refusal(text: str) -> DefinitionError:
    with pytest.raises(DefinitionError) as refused:
        read(text)
    return refused.value


def parameters(lines: str, **more: str) -> Sweep:
    """The sweep of `python t.py` with these lines as its parameters."""
    further = "".join(f"  {key}: {value}\n" for key, value in more.items())
    return load("sweep:\n  base_args: python t.py\n" + further + "  parameters:\n" + textwrap.indent(textwrap.dedent(lines), "    ")).sweep


# ---- what it means ---------------------------------------------------------------------------


def test_the_documented_example_means_what_its_comments_say():
    documented = nexa_sdk.definition.__doc__.partition("::\n\n")[2].partition("\n\nWithout")[0]
    definition = read(documented)
    assert definition.cluster == "local"
    assert definition.budget == Budget("50 USD")
    assert definition.job == Job(time="2:00:00", gpus_per_node=2, secrets=["WANDB_API_KEY"])
    sweep = definition.sweep
    assert (sweep.name, sweep.tags, sweep.wandb_group, dict(sweep.env)) == ("lr-study", ("baseline",), "lr-study", {"OMP_NUM_THREADS": "4"})
    assert len(sweep) == 6
    assert sweep.argv(4) == [
        *("torchrun", "--standalone", "--nproc-per-node=2", "train.py", "--epochs", "10"),
        *("--lr", "1e-4", "--seed", "1", "--optimizer", "adamw", "--weight-decay", "0.10"),
    ]


def test_the_smallest_definition_is_a_command():
    definition = read("sweep: {base_args: python train.py}")
    assert definition.sweep.command == ("python", "train.py")
    assert (len(definition.sweep), definition.job, definition.cluster) == (1, Job(), None)


def test_a_budget_goes_into_the_plan_unless_another_is_given():
    definition = read("""
        budget: {amount: 2.50 EUR, until_spent: true}
        sweep: {base_args: python train.py}
    """)
    assert definition.budget == Budget("2.50 EUR", until_spent=True)
    plan = Cluster("local").plan(definition, allow_unknown=True)
    assert plan.hold.budget == definition.budget
    assert Cluster("local").plan(definition, budget="3 USD", allow_unknown=True).hold.budget == Budget("3 USD")


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("fifty", "line 1: budget='fifty' is no amount; give a number above 0"),
        ("{amount: 5, until: true}", "line 1: budget.until: no such field"),
        ("{amount: 5, until_spent: often}", "line 1: budget.until_spent: "),
        ("{until_spent: true}", "line 1: budget.amount: field required"),
        ("[5]", "line 1: budget=[5] is no budget; give '50 USD'"),
    ],
)
def test_a_budget_that_is_none_is_refused_with_its_line(budget, words):
    assert words in str(refusal(f"budget: {budget}\nsweep: {{base_args: python train.py}}"))


def test_plain_scalars_are_those_of_yaml_1_2():
    sweep = parameters("""\
        lr: [1e-3, 0.10, 1E5]
        when: [2:00:00, on, yes, No, 2024-01-01, 1_000]
        quoted: ["1e-3", 'true', "null"]
        flag: [true, False]
        """)
    columns = {name: values for factor in sweep.space.factors for name, values in factor.columns.items()}
    assert columns["lr"] == [0.001, 0.1, 1e5]
    assert columns["when"] == ["2:00:00", "on", "yes", "No", "2024-01-01", "1_000"]
    assert columns["quoted"] == ["1e-3", "true", "null"]
    assert columns["flag"] == [True, False]
    assert sweep.argv(0) == ["python", "t.py", "--lr", "1e-3", "--when", "2:00:00", "--quoted", "1e-3", "--flag"]


def test_a_yaml_1_1_directive_changes_nothing():
    assert read("%YAML 1.1\n---\nsweep: {base_args: p, parameters: {a: [yes]}}").sweep[0] == {"a": "yes"}


def test_a_walltime_stays_a_walltime_and_a_bare_number_is_refused():
    assert read("job: {time: 2:00:00}\nsweep: {base_args: p}").job.time == timedelta(hours=2)
    assert read("job:\n  time: 1-12:00:00\nsweep: {base_args: p}").job.time == timedelta(hours=36)
    assert "line 2: job.time: '90' is ambiguous" in str(refusal("job:\n  time: 90\nsweep: {base_args: p}"))


def test_a_number_where_text_belongs_is_the_text_as_written():
    definition = read("""\
        name: 2024
        job: {account: 007, env: {THREADS: 4, RATE: 0.10, DEBUG: True}}
        sweep: {base_args: [python, 1e-3, True], tags: [1, 2.0], wandb_group: 12, env: {A: 0x10}}
        """)
    assert (definition.job.account, definition.job.env) == ("007", {"THREADS": "4", "RATE": "0.10", "DEBUG": "True"})
    sweep = definition.sweep
    assert (sweep.name, sweep.command, sweep.tags, sweep.wandb_group, dict(sweep.env)) == (
        "2024", ("python", "1e-3", "True"), ("1", "2.0"), "12", {"A": "0x10"},
    )  # fmt: skip


def test_numbers_and_booleans_of_a_job_are_those():
    job = read("job: {gpus: 2, exclusive: true, requeue: false, options: {switches: 1, spread-job: true}}\nsweep: {base_args: p}").job
    assert job == Job(gpus=2, exclusive=True, requeue=False, options={"switches": 1, "spread-job": True})


def test_a_range_stays_lazy():
    sweep = parameters("a: {range: [1000000000]}\nb: {range: [0, 10, 5]}\nc: {range: 2}")
    assert len(sweep) == 4 * 10**9
    assert sweep[-1] == {"a": 10**9 - 1, "b": 5, "c": 1}


def test_draws_need_n_and_repeat_by_seed():
    lines = "lr: {loguniform: [1e-5, 1e-1]}\nk: {randint: [1, 3]}\nx: {normal: [0, 1]}\nu: {uniform: [0, 1]}\no: {choice: [a, 1e-3]}"
    first, again, other = (parameters(lines, n="8", seed=seed) for seed in ("0", "0", "1"))
    assert list(first) == list(again) != list(other)
    assert len(first) == 8
    assert {first.argv(i)[-1] for i in range(8)} <= {"a", "1e-3"}
    assert len(parameters(lines + "\nseed: [0, 1]", n="8")) == 16


def test_zipped_values_vary_together():
    sweep = read("sweep: {base_args: p, zipped: {a: [1, 2], b: {range: [2]}}}").sweep
    assert [tuple(trial.values()) for trial in sweep] == [(1, 0), (2, 1)]


def test_overrides_are_the_same_in_every_trial():
    sweep = read(
        "sweep: {base_args: p, style: hydra, parameters: {seed: [0, 1]}, overrides: ['+opt.lr=1e-3', name=a=b, 'text=', ckpt=null]}"
    ).sweep
    assert sweep.argv(1) == ["p", "seed=1", "+opt.lr=1e-3", "name=a=b", "text=", "ckpt=null"]


def test_a_template_in_base_args_places_parameters():
    assert read('sweep: {base_args: "p --lr={lr}", parameters: {lr: [1e-3]}}').sweep.argv(0) == ["p", "--lr=1e-3"]


def test_aliases_and_merge_keys_work():
    sweep = read("""\
        job: &job {env: &env {A: 1, B: 2}}
        sweep:
          base_args: &command [python, t.py]
          env: {<<: [*env, {B: 3, C: 3}], A: 9}
          parameters: {x: *command}
        """).sweep
    assert dict(sweep.env) == {"B": "2", "C": "3", "A": "9"}
    assert [trial["x"] for trial in sweep] == ["python", "t.py"]


def test_null_sections_are_empty_ones():
    assert read("job:\nlauncher:\nsweep: {base_args: p}").job == Job()


# ---- the source ------------------------------------------------------------------------------


def test_a_path_and_text_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = "sweep: {base_args: python t.py}"
    for name in ("s.yaml", "s.yml", "no-ending"):
        (tmp_path / name).write_text(text)
        assert load(tmp_path / name).sweep.command == ("python", "t.py")
        assert load(str(tmp_path / name)).sweep.command == ("python", "t.py")
    monkeypatch.chdir(tmp_path)
    assert Sweep.from_yaml("no-ending").command == ("python", "t.py")
    assert Sweep.from_yaml(text).command == ("python", "t.py")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load("bom.yaml").sweep.command == ("python", "t.py")


@pytest.mark.parametrize("source", ["missing.yaml", Path("missing")])
def test_a_missing_file_is_named(source):
    with pytest.raises(DefinitionError, match=r"missing(\.yaml)?: it can't be read: No such file"):
        load(source)


def test_a_file_that_is_no_text_or_is_wrong_is_named(tmp_path):
    path = tmp_path / "x.yaml"
    with pytest.raises(DefinitionError, match="it can't be read: Is a directory"):
        load(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DefinitionError, match=r"x\.yaml: it is no UTF-8 text"):
        load(path)
    path.write_text("sweep: {}\njob: {tme: 1}")
    with pytest.raises(DefinitionError, match=r"x\.yaml: line 2: job\.tme") as refused:
        load(path)
    assert refused.value.line == 2


# ---- launchers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"script": "t.py"}, "python t.py --a"),
        ({"module": "m.t"}, "python -m m.t --a"),
        ({"script": "t.py", "extra_args": "-x 'y z'"}, "python t.py -x 'y z' --a"),
        ({"script": "my t.py", "extra_args": ["$x"]}, "python 'my t.py' '$x' --a"),
        ({"type": "torchrun", "script": "t.py"}, "torchrun --standalone --nproc-per-node=1 t.py --a"),
        ({"type": "torchrun", "module": "m.t", "nproc_per_node": 4}, "torchrun --standalone --nproc-per-node=4 -m m.t --a"),
        (
            {"type": "torchrun", "script": "t.py", "nproc_per_node": "gpu", "nnodes": 1},
            "torchrun --standalone --nproc-per-node=gpu t.py --a",
        ),
        ({"type": "torchrun", "script": "t.py", "extra_args": ["--tee=3"]}, "torchrun --standalone --nproc-per-node=1 --tee=3 t.py --a"),
        (
            {
                "type": "torchrun",
                "script": "t.py",
                "rdzv_backend": "c10d",
                "rdzv_endpoint": "localhost:0",
                "rdzv_conf": {"timeout": 9, "a": "b"},
            },
            "torchrun --nnodes=1 --rdzv-backend=c10d --rdzv-endpoint=localhost:0 --rdzv-conf=timeout=9,a=b --nproc-per-node=1 t.py --a",
        ),
    ],
)
def test_a_launcher_starts_the_program(given, words):
    assert shlex.join(Launcher(**given).command(["--a"])) == words


@pytest.mark.parametrize(
    ("job", "processes"),
    [({}, 1), ({"gpus": 2}, 2), ({"gpus_per_node": 4}, 4), ({"gpus_per_task": 1, "ntasks_per_node": 3}, 3)],
)
def test_torchrun_starts_a_process_for_each_gpu_of_the_job(job, processes):
    sweep = build(SweepDefinition(), Launcher(type="torchrun", script="t.py"), Job(**job))
    assert f"--nproc-per-node={processes}" in sweep.command


@pytest.mark.parametrize(
    ("launcher", "complaint"),
    [
        ("{type: torchrun, script: t, nnodes: 2}", "launcher.nnodes: 2: distributed training over several nodes is not there yet"),
        ("{type: torchrun, script: t, nnodes: '1:4'}", "launcher.nnodes: 1:4: distributed training over several nodes is not there yet"),
        ("{type: torchrun, script: t, nproc-per-node: 2}", "launcher.nproc-per-node: no such field; did you mean 'nproc_per_node'?"),
        ("{type: torchrun, script: t, nproc_per_node: 0}", "launcher.nproc_per_node: 0 is no number of processes"),
        ("{type: torchrun, script: t, nproc_per_node: true}", "True is no number of processes"),
        ("{type: torchrun, script: t, nproc_per_node: all}", "'all' is no number of processes"),
        ("{type: accelerate, script: t}", "launcher.type: input should be 'python' or 'torchrun', not 'accelerate'"),
        ("{type: torchrun}", "give one of script and module: what shall be started"),
        ("{script: a, module: b}", "give one of script and module, not both"),
        ("{script: ''}", "must not be empty"),
        ("{script: a, rdzv_id: 1}", "rdzv_id is an option of torchrun; write type: torchrun"),
        ("{script: a, nproc_per_node: 2}", "nproc_per_node is an option of torchrun"),
        ("python t.py", "launcher: must be a mapping of names to values, not 'python t.py'"),
    ],
)
def test_a_launcher_that_can_t_be_meant(launcher, complaint):
    error = refusal(f"sweep: {{}}\nlauncher: {launcher}")
    assert complaint in str(error)
    assert error.line == 2


def test_torchrun_is_refused_on_a_job_of_several_nodes():
    error = refusal("job:\n  gpus: 2\n  nodes: 2\nlauncher: {type: torchrun, script: t}\nsweep:")
    assert str(error).startswith("line 3: job.nodes: 2: distributed training over several nodes is not there yet")


# ---- where it is wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("", None, "the definition is empty"),
        ("# only a comment\n", None, "the definition is empty"),
        ("---\n", None, "the definition is empty"),
        ("- a\n", 1, "a definition is a mapping with sweep: in it, not a list"),
        ("sweep.yam", 1, "not 'sweep.yam'; a file is named by a path that exists"),
        ("job: {}\n", None, "there is no sweep: section"),
        ("job:\n  gpus: 1\nsweep:\n", 3, "there is no command: give launcher:"),
        ("sweep: 5", 1, "sweep: must be a mapping of names to values, not 5"),
        ("\nsweep:\n  base_args: p\n\nswep: 1\n", 5, "swep: no such field; did you mean 'sweep'?"),
        ("sweep:\n  base_args: p\n  parameter:\n    lr: [1]\n", 3, "sweep.parameter: no such field; did you mean 'parameters'?"),
        ("sweep: {base_args: p}\ncluster: [a]", 2, "cluster: input should be a valid string"),
        ("name: a\nsweep:\n  base_args: p\n  name: b", 1, "name is given twice"),
        ("name: a b\nsweep: {base_args: p}", 1, "name 'a b': give at most 40"),
    ],
)
def test_a_wrong_shape_is_said_with_its_line(text, line, complaint):
    error = refusal(text)
    assert complaint in str(error)
    assert error.line == line
    assert line is None or str(error).startswith(f"line {line}: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1", 1),
        ("sweep:\n\tbase_args: p", 2),
        ("sweep: {base_args: p}\n---\nsweep: {}", 2),
        ("sweep: {base_args: p}\nsweep: {}", 2),
        ("sweep:\n  base_args: p\n  base_args: q", 3),
        ("a: b: c", 1),
        ("a:\n  @x", 2),
        ("a: 'x", 1),
        ("a: 1\n\nb: \x07", 3),
        ("a: 1\n? [b]\n: 1", 2),
        ("sweep: *x", 1),
        ("a: 1\nsweep: &x\n  base_args: [*x]", 3),
        ("a: 1\nb: !!python/name:os.system x", 2),
        ("a: 1\nb: !!str 1", 2),
        ("a: 1\n<<: 3", 2),
    ],
)
def test_what_is_no_yaml_for_us_is_said_with_its_line(text, line):
    assert refusal(text).line == line


def test_a_few_lines_that_unfold_to_billions_are_refused():
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12))
    assert "more than 1,000,000 values" in str(refusal(bomb))
    assert "nested too deep" in str(refusal("a: " + "[" * 5000 + "]" * 5000))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("tme: 1h", "job.tme: no such field; did you mean 'time'?"),
        ("cpus-per-task: 3", "job.cpus-per-task: no such field; did you mean 'cpus_per_task'?"),
        ("time: 1:30", "job.time: '1:30' is ambiguous"),
        ("time: soon", "job.time: 'soon' is no walltime"),
        ("mem: 16", "job.mem: '16' is ambiguous"),
        ("gpus: two", "job.gpus: input should be a valid integer, not 'two'"),
        ("gpus: true", "job.gpus: input should be a valid integer, not True"),
        ("gpus: '1'", "job.gpus: input should be a valid integer, not '1'"),
        ("options: {time: 3}", "job.options: 'time' can't be passed through: use time="),
        ("env: {A: [1]}", "job.env.A: input should be a valid string"),
    ],
)
def test_a_job_s_mistakes_are_said_with_their_line(wrong, complaint):
    error = refusal(f"sweep: {{base_args: p}}\njob:\n  partition: gpu\n  {wrong}\n")
    assert str(error).startswith(f"line 4: {complaint}")


def test_every_mistake_of_a_section_is_said_in_the_order_of_lines():
    said = str(refusal("sweep: {base_args: p}\njob:\n  zeit: 1\n  mem: 16\n  gpus: 0\n"))
    assert re.fullmatch(r"line 3: job\.zeit: .*; line 4: job\.mem: .*; line 5: job\.gpus: .*", said)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("parameters: {lr: [[1, 2]]}", "'lr': [1, 2] (list) is no scalar"),
        ("parameters: {lr: [{a: 1}]}", "'lr': {'a': 1} (dict) is no scalar"),
        ("parameters: {lr: []}", "'lr' has no values"),
        ("parameters: {lr: }", "sweep.parameters.lr: it has no value; write a list"),
        ("parameters: {x y: [1]}", "'x y' can't be passed as flags"),
        ("parameters: {a_b: [1], a-b: [2]}", "are one flag"),
        ("parameters: {lr: {unifrm: [0, 1]}}", "sweep.parameters.lr: 'unifrm' is no way to give values; did you mean 'uniform'?"),
        ("parameters: {lr: {}}", "a mapping says one of range, choice,"),
        ("parameters: {lr: {uniform: [0, 1], n: 3}}", "this has 'uniform', 'n'"),
        ("parameters: {lr: {uniform: 1}}", "uniform takes [low, high], not 1"),
        ("parameters: {lr: {uniform: [a, b]}}", "uniform takes [low, high]"),
        ("parameters: {lr: {uniform: [1, 0]}}", "the low end must not be above the high end"),
        ("parameters: {lr: {loguniform: [0, 1]}}", "must be above 0"),
        ("parameters: {lr: {randint: [0.5, 1]}}", "randint takes [low, high], integers"),
        ("parameters: {lr: {choice: abc}}", "choice takes [a, b, …], not 'abc'"),
        ("parameters: {lr: {range: [0, 1, 0]}}", "range takes integers"),
        ("parameters: {lr: {range: [0.5]}}", "range takes integers"),
        ("parameters: {lr: {range: [0]}}", "the sweep is empty"),
        ("parameters: {lr: {uniform: [0, 1]}}", "'lr' is drawn; add n"),
        ("parameters: [lr]", "sweep.parameters: input should be a valid dictionary"),
        ("zipped: {lr: {uniform: [0, 1]}}", "'lr' is drawn, and draws vary together already; move it to parameters"),
        ("n: 3", "n=3 goes with draws"),
        ("n: 0", "sweep.n: input should be greater than or equal to 1"),
        ("seed: 0.5", "sweep.seed: input should be a valid integer"),
        ("style: flag", "sweep.style: input should be 'flags', 'hydra', 'env' or 'template'"),
        ("overrides: [lr]", "'lr' is no override; write key=value"),
        ("overrides: [=1]", "'=1' is no override"),
        ("overrides: [a=1, a=2]", "'a' is given twice"),
        ("tags: ['a,b']", "tags: 'a,b': give text without a comma"),
        ("env: {WANDB_API_KEY: hunter2}", "'WANDB_API_KEY' looks like a secret"),
        ("env: {SLURM_X: 1}", "'SLURM_X' belongs to the scheduler"),
        ("wandb_project: [a]", "sweep.wandb_project: input should be a valid string"),
    ],
)
def test_a_sweep_s_mistakes_are_said_with_their_line(lines, complaint):
    error = refusal(f"sweep:\n  base_args: p\n  {lines}\n")
    assert complaint in str(error)
    assert "hunter2" not in str(error)
    assert error.line == 3


def test_a_parameter_given_twice_is_found_among_the_parameters():
    error = refusal("sweep:\n  base_args: p\n  overrides: [lr=1]\n  parameters:\n    a: [1]\n    lr: [2]\n")
    assert str(error).startswith("line 6: parameter 'lr' is given twice")


def test_a_command_for_a_shell_is_refused():
    error = refusal("sweep:\n  base_args: p | tee log\n")
    assert str(error).startswith("line 2: sweep.base_args: command 'p | tee log': no shell reads it")


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from([*":-[]{}&*!|>#'\"\n ,%@?~<0.e", "sweep:", "job:", "a", "\n  ", "&a ", "*a", "<<: "]), max_size=30).map(
        "".join
    )
)
@example('sweep: {base_args: [a, "\\ud800"]}')
@example('sweep: {base_args: "a\\0"}')
@example("sweep:\n  base_args: p\n  '': 1")
@example("self: 1\nsweep: {base_args: p, self: 2}")
def test_any_text_is_a_definition_or_an_error_of_ours(text):
    with suppress(NexaError):
        load(text)


# ---- in Python -------------------------------------------------------------------------------


def test_the_schema_is_made_in_python_as_well():
    definition = SweepDefinition(parameters={"lr": [1e-3, 1e-4], "seed": range(3), "opt": "adam"}, overrides=["wd=0.10"])
    sweep = build(definition, Launcher(script="train.py"), Job())
    assert sweep.argv(5) == ["python", "train.py", "--lr", "0.0001", "--seed", "2", "--opt", "adam", "--wd", "0.10"]


def test_mistakes_in_python_are_errors_of_ours_and_nothing_changes():
    with pytest.raises(DefinitionError, match="parameter: no such field; did you mean 'parameters'"):
        SweepDefinition(parameter={})
    with pytest.raises(DefinitionError, match="Launcher: give one of script and module"):
        Launcher()
    with pytest.raises(SweepError, match="'lr' has no values"):
        build(SweepDefinition(base_args="p", parameters={"lr": []}), None, Job())
    with pytest.raises(ValueError, match="frozen"):
        Launcher(script="a").script = "b"


def test_a_schema_that_tools_can_read_is_there():
    assert set(SweepDefinition.model_json_schema()["properties"]) >= {"base_args", "parameters", "overrides", "tags", "wandb_group", "env"}
    assert set(Launcher.model_json_schema()["properties"]) >= {
        "type",
        "script",
        "module",
        "nproc_per_node",
        "nnodes",
        "rdzv_id",
        "extra_args",
    }
