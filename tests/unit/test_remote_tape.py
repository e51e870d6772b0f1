"""What a remote cell wrote and showed, put in order; and what a progress bar overwrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexa_sdk import remote
from nexa_sdk.remote.names import names_of
from nexa_sdk.remote.packing import pack_cell, size_text
from nexa_sdk.remote.tape import Cleared, Ended, Shown, Tape, Text, overwritten


def line(kind: str, at: int, **more: object) -> bytes:
    return json.dumps({"kind": kind, "at": at, **more}).encode() + b"\n"


def show(at: int, text: str) -> bytes:
    return line("show", at, data={"text/plain": text}, metadata={})


LOG = "before\nné between\nafter".encode()
RECORDS = show(7, "first") + show(19, "second") + line("clear", 19, wait=True)
END = line("end", len(LOG), outputs={}, error=None, python=[3, 11, 2], host="n1")


@given(st.lists(st.integers(0, len(LOG))), st.lists(st.integers(0, len(RECORDS + END))))
def test_text_and_pictures_come_in_order_however_they_are_cut(log_cuts: list[int], shown_cuts: list[int]) -> None:
    tape, events = Tape(), []
    log_ends, shown_ends = sorted([*log_cuts, len(LOG)]), sorted([*shown_cuts, len(RECORDS + END)])
    # the log is read first: it may be ahead of what was shown before it only by what one look takes
    for k in range(max(len(log_ends), len(shown_ends))):
        log = LOG[tape.read_log : log_ends[min(k, len(log_ends) - 1)]]
        behind = sum(record["at"] <= tape.read_log + len(log) for record in map(json.loads, (RECORDS + END).splitlines()))
        least = len(b"".join((RECORDS + END).splitlines(keepends=True)[:behind]))
        end = max(shown_ends[min(k, len(shown_ends) - 1)], least)
        events += tape.take(log, (RECORDS + END)[tape.read_shown : max(end, tape.read_shown)])
    texts = [""]
    for event in events:
        if isinstance(event, Text):
            texts[-1] += event.text
        else:
            texts.append("")
    assert texts == ["before\n", "né between\n", "", "after", ""]
    assert [type(event) for event in events if not isinstance(event, Text)] == [Shown, Shown, Cleared, Ended]


def test_what_was_shown_at_a_place_that_the_log_never_reaches_comes_in_the_end() -> None:
    tape = Tape()
    assert list(tape.take(b"text", show(100, "late"))) == [Text("text")]
    assert list(tape.take(b"", b"", is_last=True)) == [Shown({"text/plain": "late"}, {})]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ntext", "plain\ntext"),
        ("\r1/3\r2/3\r3/3\n", "\r3/3\n"),
        ("begun\r1\r2", "begun\r2"),
        ("\rlonger\rshort", "\rshortr"),  # a terminal leaves the rest of the longer one
        ("\r1\r2\r", "\r2\r"),
        ("windows\r\n", "windows\r\n"),
        ("\r\x1b[A1\r\x1b[A2", "\r\x1b[A1\r\x1b[A2"),
    ],
)
def test_of_a_progress_bar_the_last_state_stays(text: str, shown: str) -> None:
    assert overwritten(text) == shown


def test_names_are_read_from_the_code() -> None:
    names = names_of(
        "import a.b\nfrom c import d as e\ndef f(x):\n  global g\n  g = h(x) + i\n  j = 1\nk: int = [l for l in m][0]\nwith n as o: pass\n"
    )
    assert names.defined == {"a", "e", "f", "g", "k", "o"}
    assert names.needed == {"h", "i", "m", "n"}
    assert not names.is_open
    assert names_of("from x import *").is_open
    assert names_of("await f()").needed == {"f"}


def test_one_that_is_the_same_has_the_same_digest() -> None:
    def digest(code: str = "y = x", **inputs: object) -> str:
        return pack_cell(code, inputs=inputs, outputs=["y"]).digest

    assert digest(x=1) == digest(x=1) != digest(x=2)
    assert digest(x=1) != digest("y = x + 1", x=1)


@pytest.mark.parametrize(("size", "text"), [(5, "5 bytes"), (80_000, "80 kB"), (12_345_678, "12.3 MB"), (2_000_000_000, "2 GB")])
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("name", "least"), [("nexa_cell", "2.7"), ("nexa_cell_run", "3.8"), ("nexa_cell_screen", "3.8"), ("nexa_cell_pickling", "3.8")]
)
def test_what_runs_there_runs_on_old_pythons(name: str, least: str) -> None:
    path = Path(remote.__file__).with_name(f"{name}.py")
    vermin = Path(sys.executable).with_name("vermin")
    targets = [f"--target={least}-"] if least[0] == "3" else [f"--target={least}-", "--target=3.0-"]
    found = subprocess.run([vermin, *targets, "--no-tips", path], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
