"""The form of a sweep in JupyterLab: how soon it is on screen, and a keystroke in it beside a bare Text that fills a Label.

Run by name::

    python tests/bench/bench_form.py [--rounds 40]

A real JupyterLab and a real Chromium on this machine. On screen: from the key that runs the cell until the
button that launches can be used, in a kernel that has shown a form before; until the fields are there, too. A
keystroke: from the key until what it changes has changed on screen, in a sweep of 10⁶ trials; of the bare pair
until the label says what was typed, both in turns. In the kernel: the callback alone. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "browser")]

from lab import ARGUMENTS, CHROMIUM, Notebook, Server  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

SETUP = """
import ipywidgets
from nexa_sdk import Sweep, ui
import pathlib; pathlib.Path("train.py").write_text("print('hello')")
ui.sweep(Sweep("python train.py", {"a": [1]})).close()
"""
FORM = "form = ui.sweep(Sweep('python train.py', {'a': range(1000), 'b': range(1000)}))"
BARE = """
text, label = ipywidgets.Text("0..999", description="bare"), ipywidgets.Label()
text.observe(lambda change: setattr(label, "value", change["new"]), "value")
ipywidgets.VBox([text, label])
"""
KERNEL = """
import statistics, time
took, row = [], form._rows.children[0]
for k in range(200):
    began = time.perf_counter()
    row.values_text.value = "0..99" + "9" * (k % 2)
    took.append(1000 * (time.perf_counter() - began))
print("median", statistics.median(took), "p95", sorted(took)[189])
"""
# milliseconds from the next key until a text that is watched is another and stands still for a frame
WATCH = """
([output, what]) => {
  const seen = () => document.querySelectorAll('.jp-Notebook .jp-CodeCell')[output].querySelector(what)?.textContent;
  window.changed = new Promise((done) => {
    document.addEventListener("keydown", () => {
      const began = performance.now(), before = seen();
      const look = () => seen() !== before ? done(performance.now() - began) : requestAnimationFrame(look);
      look();
    }, {once: true, capture: true});
  });
}
"""
APPEARS = """
([output]) => {
  const place = document.querySelectorAll('.jp-Notebook .jp-CodeCell')[output];
  const input = () => place.querySelector('input[type=text]'), old = input();
  window.appeared = new Promise((done) => {
    const pressed = (event) => {
      if (event.key !== "Enter") return;
      document.removeEventListener("keydown", pressed, true);
      const began = performance.now();
      let fields = null;
      const look = () => {
        if (fields === null && input() !== old && input()?.offsetParent) fields = performance.now() - began;
        const launch = [...place.querySelectorAll('button')].find((button) => /^Launch [0-9]/.test(button.textContent.trim()));
        fields !== null && launch && !launch.disabled ? done([fields, performance.now() - began]) : requestAnimationFrame(look);
      };
      look();
    };
    document.addEventListener("keydown", pressed, true);
  });
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("there is no chromium on PATH")
    folder = Path(tempfile.mkdtemp(prefix="nexa-bench-"))
    os.environ["NEXA_HOME"] = str(folder / "home")
    server = Server(folder)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
            measure(Notebook.open(browser, server, "bench.ipynb", [SETUP, BARE, FORM, KERNEL]), args.rounds)
            browser.close()
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def measure(page: Notebook, rounds: int) -> None:
    page.run(0), page.run(1)
    page.output(1).get_by_role("textbox").wait_for()
    shows = []
    for _ in range(5):
        page.page.evaluate(APPEARS, [2])
        page.run(2)
        shows.append(page.page.evaluate("appeared"))
        time.sleep(1)
    print(f"on screen, the median of {len(shows)}: fields {statistics.median(fields for fields, _ in shows):6.0f} ms")
    print(f"                          can be launched {statistics.median(whole for _, whole in shows):6.0f} ms")
    bare = page.output(1).get_by_role("textbox")
    values = page.output(2).get_by_role("textbox", name="Values").nth(0)
    watched = {"bare": (bare, [1, ".widget-label:not(label), .jupyter-widgets.widget-label"]), "form": (values, [2, ".nexa-count"])}
    took: dict[str, list[float]] = {name: [] for name in watched}
    for number in range(rounds):
        for name, (place, what) in watched.items():
            place.click()
            place.press("End")
            page.page.wait_for_timeout(400)  # what the last one caused is over
            page.page.evaluate(WATCH, what)
            page.page.keyboard.press("9" if number % 2 else "Backspace")
            took[name].append(page.page.evaluate("changed"))
    for name, found in took.items():
        ordered = sorted(found)
        print(
            f"a keystroke, {name:4} until it is seen: median {statistics.median(found):6.1f} ms, p95 {ordered[int(0.95 * len(ordered)) - 1]:6.1f} ms"
        )
    print(f"form ÷ bare: {statistics.median(took['form']) / statistics.median(took['bare']):.2f}")
    page.run(3)
    told = page.output(3).get_by_text("median")
    told.wait_for()
    print(f"in the kernel, ms a keystroke for 10⁶ trials: {told.inner_text().strip()}")


if __name__ == "__main__":
    main()
