"""The end of a log as it grows: what is read of it, and what is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nexa_sdk.log_tail import MOST, LogTail
from nexa_sdk.transports.base import MOST_AT_ONCE
from nexa_sdk.transports.local import LocalTransport


class Counting(LocalTransport):
    """This machine; it counts what is read."""

    def __init__(self) -> None:
        self.bytes = 0

    def read_on(self, offsets: Any) -> dict[str, bytes]:
        found = super().read_on(offsets)
        self.bytes += sum(map(len, found.values()))
        return found

    def read(self, path: str, *, offset: int = 0) -> bytes:
        raise AssertionError("all of a log was read")


@pytest.fixture
def log(tmp_path):
    transport = Counting()
    path = tmp_path / "7_0.log"
    attempt = SimpleNamespace(name="7_0")
    return path, LogTail(attempt, str(path), transport, silence=lambda _: "nothing yet"), transport


def test_of_a_growing_log_only_what_is_new_is_read(log):
    path, tail, transport = log
    assert tail.read_on()
    assert tail.text == "nothing yet"
    assert not tail.read_on()
    path.write_bytes("loss 0.1 é".encode()[:-1])
    assert tail.read_on()
    with path.open("ab") as file:
        file.write("é".encode()[-1:] + b"\n")
    assert tail.read_on()
    assert tail.text == "loss 0.1 é\n", "a character that was read in two halves is whole"
    assert not tail.read_on()
    assert transport.bytes == path.stat().st_size
    assert not tail.is_cut


def test_of_a_large_log_only_the_end_is_read_and_from_a_line_on(log):
    path, tail, transport = log
    path.write_text("".join(f"line {number}\n" for number in range(500_000)))
    assert tail.read_on()
    assert transport.bytes <= MOST
    assert tail.is_cut
    assert tail.text.startswith("line ")
    assert tail.text.endswith("line 499999\n")


def test_what_is_kept_of_a_log_that_grows_for_ever_stays_small(log):
    path, tail, _ = log
    path.write_text("begin\n")
    tail.read_on()
    for number in range(60):
        with path.open("a") as file:
            file.write(f"line {number}\n" * 1000)
        tail.read_on()
        assert len(tail.text) <= 2 * MOST
    assert tail.is_cut
    assert {len(line.split()) for line in tail.text.splitlines()} == {2}
    assert tail.text.endswith("line 59\n")


def test_who_writes_faster_than_it_is_read_is_followed_at_the_end(log):
    path, tail, _ = log
    path.write_text("begin\n")
    tail.read_on()
    with path.open("a") as file:
        file.write(("y" * 79 + "\n") * (3 * MOST_AT_ONCE // 80))
        file.write("end\n")
    assert tail.read_on()
    assert tail.text.endswith("end\n")
    assert len(tail.text) <= 2 * MOST
    assert tail.is_cut


def test_the_size_of_a_file_is_asked_by_a_shell_too(tmp_path):
    class Remote(LocalTransport):
        size = LocalTransport.__mro__[1].size  # as machines have it that are reached by commands alone

    (tmp_path / "it's here").write_text("four")
    assert Remote().size(str(tmp_path / "it's here")) == 4
    assert Remote().size(str(tmp_path / "missing")) == 0
    assert LocalTransport().size(str(tmp_path / "it's here")) == 4
    assert LocalTransport().size(str(tmp_path / "missing")) == 0
