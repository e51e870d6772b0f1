"""The grid of a run's trials: what an update costs in the kernel, on the line and in a browser, beside an SVG that is sent anew.

Run by name::

    python tests/bench/bench_grid.py [--trials 10000] [--rounds 20]

Of so many trials one, a hundred, a tenth and all change their states. In the kernel it is the time from
the states to the messages that the front end gets; bytes are those messages whole. In the browser, a real
Chromium without Jupyter, it is the time from the message until the canvas has its pixels; of an SVG only until
it is laid out, for nothing tells when it is painted. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "browser")]

from nexa_sdk.notebook import run_picture  # noqa: E402
from nexa_sdk.notebook.widgets.task_grid import TaskGrid  # noqa: E402
from nexa_sdk.states import State  # noqa: E402

MIX = [State.PENDING, State.RUNNING, State.COMPLETED, State.COMPLETED, State.COMPLETED, State.FAILED]

# A model as anywidget gives one to `render`, and what a message takes until it is drawn.
PAGE = """
async ([code, palette]) => {
  const module = await import(URL.createObjectURL(new Blob([code], {type: "text/javascript"})));
  const heard = {}, traits = {palette, chosen: -1};
  const model = {get: (name) => traits[name], set: (name, value) => { traits[name] = value; }, save_changes() {}, send() {},
                 on: (name, act) => { heard[name] = act; }, off() {}};
  const place = document.createElement("div"); document.body.append(place);
  module.default.render({model, el: place});
  const other = document.createElement("div"); document.body.append(other);
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  window.drawn = (kind, parts) => {
    const began = performance.now();
    heard["msg:custom"]({kind}, parts.map((part) => new DataView(Uint8Array.from(part).buffer)));
    place.querySelector(".nexa-trials").getContext("2d").getImageData(0, 0, 1, 1);  // until it is there
    return performance.now() - began;
  };
  window.laidOut = (text) => {
    const began = performance.now();
    other.innerHTML = text;
    other.getBoundingClientRect();
    return performance.now() - began;
  };
}
"""


def run_of(states: Sequence[State]) -> Any:
    """Return what the pictures ask of a run."""
    return SimpleNamespace(
        id="bench-1", trial_count=len(states), last_known=[SimpleNamespace(status=SimpleNamespace(state=state)) for state in states]
    )


def timed(work: Callable[[], Any]) -> float:
    """Return milliseconds."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


class Browser:
    """A page with a grid in it; without Chromium, nothing."""

    def __init__(self) -> None:
        self.page: Any = None
        try:
            from lab import ARGUMENTS, CHROMIUM
            from playwright.sync_api import sync_playwright
        except ImportError:
            return
        if CHROMIUM is None:
            return
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        self.page = self._browser.new_page(viewport={"width": 1000, "height": 1000})
        grid = TaskGrid(lambda _: None)
        code = Path(__file__).parents[2] / "nexa_sdk" / "notebook" / "widgets" / "task_grid.js"
        self.page.evaluate(PAGE, [code.read_text(), grid.palette])

    def close(self) -> None:
        if self.page is not None:
            self._browser.close()
            self._playwright.stop()

    def __call__(self, script: str, given: Any) -> float | None:
        return float(self.page.evaluate(script, given)) if self.page is not None else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    chance = random.Random(1)
    browser = Browser()
    states = [chance.choice(MIX) for _ in range(args.trials)]
    grid = TaskGrid(lambda _: None)
    sent: list[tuple[dict[str, Any], list[bytes]]] = []
    grid.send = lambda content, buffers=None: sent.append((content, list(buffers or [])))
    grid.update(states)
    print(f"{args.trials:,} trials, medians of {args.rounds}          kernel ms   bytes   browser ms")

    def row(name: str, kernel: float, size: float, drawn: float | None) -> None:
        print(f"{name:44} {kernel:9.2f} {size:9,.0f} {'' if drawn is None else f'{drawn:9.2f}'}")

    content, buffers = sent[-1]
    whole = browser("([kind, parts]) => drawn(kind, parts)", [content["kind"], [list(buffer) for buffer in buffers]])
    row("all states, as a front end asks", timed(grid._send_all), _size(content, buffers), whole)
    figures: dict[int, tuple[float, float, float | None]] = {}
    svg: list[tuple[float, float, float | None]] = []
    for changed in sorted({1, 100, args.trials // 10, args.trials}):
        found = []
        for _ in range(args.rounds):
            for place in chance.sample(range(args.trials), changed):
                states[place] = chance.choice([state for state in MIX if state is not states[place]])
            sent.clear()
            kernel = timed(lambda: grid.update(states))
            ((content, buffers),) = sent
            drawn = browser("([kind, parts]) => drawn(kind, parts)", [content["kind"], [list(buffer) for buffer in buffers]])
            found.append((kernel, _size(content, buffers), drawn))
        figures[changed] = _medians(found)
        row(f"{changed:,} changed", *figures[changed])
    for _ in range(args.rounds):
        run, texts = run_of(states), []
        kernel = timed(lambda run=run, texts=texts: texts.append(run_picture.grid(run)))
        svg.append((kernel, len(texts[0].encode()), browser("text => laidOut(text)", texts[0])))
    anew = _medians(svg)
    row("an SVG anew, whatever changed", *anew)
    browser.close()
    print()
    for changed, (kernel, size, _) in figures.items():
        print(f"{changed:>7,} changed ÷ SVG: kernel {kernel / anew[0]:6.3f}, bytes {size / anew[1]:6.3f}")


def _size(content: dict[str, Any], buffers: Sequence[bytes]) -> int:
    return len(json.dumps(content)) + sum(map(len, buffers))


def _medians(found: Sequence[tuple[float, float, float | None]]) -> tuple[float, float, float | None]:
    kernel, size, drawn = zip(*found, strict=True)
    return statistics.median(kernel), statistics.median(size), None if drawn[0] is None else statistics.median(drawn)


if __name__ == "__main__":
    main()
