"""Jobs: resources and surroundings, as the options of sbatch that they mean."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nexa_sdk.errors import JobError
from nexa_sdk.job import Job
from nexa_sdk.walltime import format_walltime, parse_walltime

# ---- what sbatch is told ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "directives"),
    [
        ({}, []),
        ({"partition": "gpu"}, [("partition", "gpu")]),
        ({"partition": ["a", "b"]}, [("partition", "a,b")]),
        ({"account": "acc"}, [("account", "acc")]),
        ({"qos": "high"}, [("qos", "high")]),
        ({"constraint": "[a|b]"}, [("constraint", "[a|b]")]),
        ({"reservation": "r"}, [("reservation", "r")]),
        ({"licenses": "matlab:2"}, [("licenses", "matlab:2")]),
        ({"dependency": "afterok:12"}, [("dependency", "afterok:12"), ("kill-on-invalid-dep", "yes")]),
        ({"dependency": "afterok:12", "options": {"kill-on-invalid-dep": "no"}}, [("dependency", "afterok:12"), ("kill-on-invalid-dep", "no")]),
        ({"nodes": 2}, [("nodes", "2")]),
        ({"ntasks_per_node": 4}, [("ntasks-per-node", "4")]),
        ({"cpus_per_task": 8}, [("cpus-per-task", "8")]),
        ({"gpus": 2}, [("gpus", "2")]),
        ({"gpus_per_node": 1, "gpu_type": "h100"}, [("gpus-per-node", "h100:1")]),
        ({"gpus_per_task": 1}, [("gpus-per-task", "1"), ("ntasks", "1")]),
        ({"gpus_per_task": 1, "ntasks_per_node": 2}, [("ntasks-per-node", "2"), ("gpus-per-task", "1")]),
        ({"mem": "16G"}, [("mem", "16G")]),
        ({"mem": "500 mib"}, [("mem", "500M")]),
        ({"nodelist": ["n1", "n2"]}, [("nodelist", "n1,n2")]),
        ({"exclude": "n[3-5]"}, [("exclude", "n[3-5]")]),
        ({"time": "2:00:00"}, [("time", "02:00:00")]),
        ({"time": "UNLIMITED"}, [("time", "UNLIMITED")]),
        ({"time": timedelta(minutes=90)}, [("time", "01:30:00")]),
        ({"mail": "a@b.org"}, [("mail-user", "a@b.org"), ("mail-type", "END,FAIL")]),
        ({"signal": "USR1@60"}, [("signal", "B:USR1@60")]),
        ({"signal": "RB:USR1@60"}, [("signal", "RB:USR1@60")]),
        ({"requeue": True}, [("requeue", None)]),
        ({"requeue": False}, [("no-requeue", None)]),
        ({"secrets": ["WANDB_API_KEY"]}, [("no-requeue", None)]),
        ({"exclusive": True}, [("exclusive", None)]),
        ({"options": {"switches": 1, "spread-job": True, "overcommit": False, "comment": "a b"}}, [("switches", "1"), ("spread-job", None), ("comment", "a b")]),
        ({"throttle": 2, "workdir": "/x", "modules": ["cuda/12"], "venv": "/v", "pre_commands": ["a"], "env": {"A": "1"}}, []),
    ],
)  # fmt: skip
def test_a_field_is_an_option_of_sbatch(given, directives):
    assert Job(**given).directives() == directives


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        ({}, 0),
        ({"gpus": 3}, 3),
        ({"gpus": 3, "nodes": 2}, 3),
        ({"gpus_per_node": 2, "nodes": 2}, 4),
        ({"gpus_per_task": 1, "ntasks_per_node": 4, "nodes": 2}, 8),
    ],
)
def test_the_gpus_of_a_trial_are_counted_over_its_nodes(given, gpus):
    assert Job(**given).gpu_count == gpus


def test_one_word_is_a_list_of_one():
    job = Job(modules="cuda/12.1", pre_commands="echo hi", secrets="TOKEN_NAME", venv=Path("/v"))
    assert (job.modules, job.pre_commands, job.secrets, job.venv) == (("cuda/12.1",), ("echo hi",), ("TOKEN_NAME",), "/v")


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["nodes", "ntasks_per_node", "cpus_per_task", "gpus", "gpus_per_node", "gpus_per_task", "throttle"])
@pytest.mark.parametrize("count", [0, -1, True, 1.5, 2.0, "2", [1]])
def test_a_count_is_an_integer_from_one_on(field, count):
    with pytest.raises(JobError, match=f"^{field}: "):
        Job(**{field: count})


@pytest.mark.parametrize(
    "field", ["partition", "account", "qos", "reservation", "licenses", "dependency", "gpu_type", "nodelist", "exclude", "mail"]
)
@pytest.mark.parametrize("text", ["", "a b", "a\nb", "a\n#SBATCH --uid=0", 'a"b', "a\\b", 5, []])
def test_a_word_can_t_break_out_of_its_line(field, text):
    with pytest.raises(JobError, match=f"^{field}: "):
        Job(**{field: text})


@pytest.mark.parametrize(
    "given",
    [{"constraint": "a\nb"}, {"constraint": ""}, {"options": {"comment": "a\nb"}}, {"options": {"comment": 'a"b'}}, {"modules": ["a b"]}],
)
def test_no_other_text_can_either(given):
    with pytest.raises(JobError, match="can't stand in an #SBATCH line"):
        Job(**given)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"tme": "1h"}, r"tme: no such field; did you mean 'time'\?"),
        ({"gpu_per_node": 1}, r"did you mean 'gpus_per_node'\?"),
        ({"zzz": 1}, "known: account, "),
        ({"gpus": 1, "gpus_per_node": 1}, "gpus and gpus_per_node count the same GPUs; give one"),
        ({"gpu_type": "h100"}, "gpu_type='h100' needs a number; add gpus=1"),
        ({"venv": "/v", "conda": "c"}, "venv and conda each choose a Python; give one"),
        ({"mem": 16}, "16 is ambiguous: Slurm would read megabytes; write '16G'"),
        ({"mem": "16"}, "ambiguous"),
        ({"mem": 1.5}, "1.5 is no amount of memory"),
        ({"mem": "1.5G"}, "no amount of memory"),
        ({"mem": "16X"}, "no amount of memory"),
        ({"mem": "１６G"}, "no amount of memory"),
        ({"signal": "usr1@60"}, "no signal"),
        ({"signal": "USR1@"}, "no signal"),
        ({"options": {"array": "0-3"}}, "throttle= limits"),
        ({"options": {"job-name": "x"}}, "name the sweep"),
        ({"options": {"output": "x"}}, "logs lie in the run's folder"),
        ({"options": {"export": "ALL"}}, "small clean environment"),
        ({"options": {"mem": "1G"}}, "has a field of its own: use mem="),
        ({"options": {"cpus-per-task": 3}}, "use cpus_per_task="),
        ({"options": {"--switches": 1}}, "no long option"),
        ({"options": {"p": "gpu"}}, "no long option"),
        ({"options": {"switches": 1.5}}, "options.switches: 1.5 is no value of an option"),
        ({"env": {"SLURM_X": "1"}}, "belongs to the scheduler"),
        ({"env": {"A": 1}}, "env.A: input should be a valid string"),
        ({"env": {"A": "\0"}}, "NUL"),
        ({"workdir": "a\0b"}, "workdir: .*NUL"),
        ({"venv": "a\0b"}, "venv: .*NUL"),
        ({"pre_commands": ["a\0b"]}, "pre_commands: .*NUL"),
        ({"secrets": ["SLURM_TOKEN"]}, "belongs to the scheduler"),
    ],
)
def test_what_can_t_be_meant_is_refused(given, complaint):
    with pytest.raises(JobError, match=complaint):
        Job(**given)


def test_every_complaint_is_made_at_once():
    with pytest.raises(JobError) as refused:
        Job(time=90, gpus=0, tme=1)
    assert str(refused.value).count(";") >= 2
    assert all(field in str(refused.value) for field in ("time: ", "gpus: ", "tme: "))


# ---- walltimes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("2:00:00", timedelta(hours=2)),
        ("100:00:00", timedelta(hours=100)),
        ("1-12", timedelta(days=1, hours=12)),
        ("1-12:30", timedelta(days=1, hours=12, minutes=30)),
        ("1-12:30:15", timedelta(days=1, hours=12, minutes=30, seconds=15)),
        ("90m", timedelta(minutes=90)),
        ("2h", timedelta(hours=2)),
        ("1d 2h 3min 4s", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        (" 2H ", timedelta(hours=2)),
        ("infinite", None),
        (timedelta(seconds=1.5), timedelta(seconds=2)),
    ],
)
def test_a_walltime_is_read(text, length):
    assert parse_walltime(text) == length


@pytest.mark.parametrize(
    "wrong",
    [
        90, 0, 1.5, True, "90", " 90 ", "0", "", " ", "1:30", "2:00", "1:60:00", "1:00:60", "1-24", "1-00:60", "0:00:00", "0m", "-1:00:00", "1.5h",
        "2 hours", "h", "2h2h", "1:2:3:4", "1-", "-", "tomorrow", "2:00:00\n#SBATCH --uid=0", timedelta(0), timedelta(seconds=-5), [2], {},
        "99999999999-00:00:00", "99999999999999h",
    ],
)  # fmt: skip
def test_a_walltime_in_any_wrong_form_is_refused(wrong):
    with pytest.raises(JobError, match=r"^time: "):
        Job(time=wrong)


def test_a_bare_number_is_ambiguous_and_so_are_two():
    with pytest.raises(JobError, match=r"90 is ambiguous: Slurm would read minutes; write '2:00:00'"):
        Job(time=90)
    with pytest.raises(JobError, match=r"write '1:30:00' for hours, '0:01:30' for minutes"):
        Job(time="1:30")


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=10_000)))
def test_a_walltime_is_written_and_read_without_being_shortened(length):
    text = format_walltime(length)
    again = parse_walltime(text)
    assert length <= again < length + timedelta(seconds=1)
    assert format_walltime(again) == text
    assert parse_walltime(length) == again


# ---- secrets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"secrets": ["WANDB_API_KEY=hunter2"]},
        {"secrets": "WANDB_API_KEY=hunter2"},
        {"secrets": ["hunter2-and-more"]},
        {"secrets": ["hunter2=="]},
        {"secrets": {"WANDB_API_KEY": "hunter2"}},
        {"secrets": [["hunter2"]]},
        {"env": {"WANDB_API_KEY": "hunter2"}},
        {"env": {"WANDB_API_KEY": ["hunter2"]}},
        {"env": "WANDB_API_KEY=hunter2"},
    ],
)
def test_a_secret_s_value_is_refused_and_never_shown(given):
    with pytest.raises(JobError) as refused:
        Job(**given)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_the_name_of_a_secret_given_with_its_value_is_shown():
    with pytest.raises(JobError, match=r"'WANDB_API_KEY' with a value behind it is no name.*taken from the environment or \.env"):
        Job(secrets=["WANDB_API_KEY=hunter2"])


# ---- a value ---------------------------------------------------------------------------------


def test_nothing_in_a_job_changes():
    with pytest.raises(ValidationError):
        Job().time = "1h"


@pytest.mark.parametrize(
    "job",
    [
        Job(),
        Job(time="2:00:00", gpus=1, workdir="/x y", modules=["cuda/12.1"], env={"A": "it's"}, secrets=["WANDB_API_KEY"]),
        Job(time="UNLIMITED", requeue=False, options={"switches": 1, "spread-job": True}),
        Job(time=timedelta(seconds=90, microseconds=1), partition=None),
    ],
    ids=repr,
)
def test_a_repr_is_the_job_again(job):
    assert eval(repr(job)) == job


def test_a_repr_shows_what_was_given_in_the_order_of_the_fields():
    assert repr(Job(gpus=1, time="90m")) == "Job(time='01:30:00', gpus=1)"
