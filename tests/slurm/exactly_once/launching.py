"""Run as a program: launches a sweep, or runs its failed trials again, as a cell of a notebook would.

``python launching.py SITUATION.json [--line K] [--count]``: killed at its K-th line of nexa_sdk, counted
from when the submission begins; or only counted. It says what it does in JSON lines on stdout.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import nexa_sdk
from nexa_sdk import Cluster, Sweep, attach
from nexa_sdk.errors import NexaError
from nexa_sdk.run import Run

PACKAGE = str(Path(nexa_sdk.__file__).parent)


class Lines:
    """Counts the lines of nexa_sdk from when the journal is first written to, in all threads, and dies at one of them."""

    def __init__(self, last: int | None) -> None:
        self.count, self.last, self.began = 0, last, 0.0

    def __enter__(self) -> Lines:
        threading.settrace(self._enter_function)
        sys.settrace(self._enter_function)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _enter_function(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if not self.began and frame.f_code.co_qualname in ("Journal.begin", "Journal.intend"):
            self.began = time.monotonic()
            Path("../counting").touch()
            say(begins=os.getpid())
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and self.began:
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def launch(situation: dict[str, Any]) -> Run:
    sweep = Sweep(["sh", "trial.sh"], {"x": list(range(situation["trials"]))}, style="env")
    return Cluster(situation["cluster"]).launch(sweep, time="0:10:00", throttle=situation["throttle"])


def act(situation: dict[str, Any], last: int | None) -> Lines:
    """Do what the situation says, under the counter."""
    run_again = situation["what"] == "retry"
    run = launch(situation).wait(check=False, progress=False) if run_again else None
    if run_again:
        Path("../mended").touch()
    with Lines(last) as lines:
        try:
            run = run.retry() if run is not None else launch(situation)
        except NexaError as error:
            say(refused=type(error).__name__, words=str(error))
            raise
    say(run=run.id, lines=lines.count, seconds=time.monotonic() - lines.began)
    return lines


def follow_up(situation: dict[str, Any], how: str) -> None:
    """Do what a user does who comes back: run the cell again, or take the run up by its id."""
    known = list(nexa_sdk.runs().index)
    if not known or (how == "again" and situation["what"] == "launch"):
        run = launch(situation)
    else:
        run = attach(known[0])
        if how == "resume":
            run.resume()
    if situation["what"] == "retry":
        run.retry()
    say(run=run.id)
    run.wait(timeout=situation["patience"], check=False, progress=False)
    say(states=[str(attempt.status.state) for attempt in run.last_known])


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever was inherited
    situation = json.loads(Path(sys.argv[1]).read_text())
    how = sys.argv[2] if len(sys.argv) > 2 else "act"
    if how == "act":
        act(situation, int(sys.argv[3]) if len(sys.argv) > 3 else None)
    else:
        follow_up(situation, how)


if __name__ == "__main__":
    main()
