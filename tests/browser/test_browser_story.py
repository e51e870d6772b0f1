"""The whole story on a real Slurm, as a colleague would be shown it; and its pictures, light and dark.

UPDATE_PICTURES=1 puts the pictures into notebooks/images, where README shows them.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe import serious
from lab import Notebook, Server
from playwright.sync_api import Locator

from nexa_sdk import Cluster, runs

PICTURES = Path(__file__).parents[2] / "notebooks" / "images"
TRAIN = """
    import argparse, json, os, sys, time
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.lr > 0.05 and not os.path.exists("fixed"):
        sys.exit(f"the loss is NaN at lr={given.lr}: lower it, or clip gradients")
    for epoch in range(3):
        accuracy = 0.9 - abs(given.lr - 0.01) - 0.01 * given.seed + 0.02 * epoch
        print(f"epoch {epoch}: accuracy {accuracy:.3f}", flush=True)
        print(json.dumps({"epoch": epoch, "accuracy": accuracy}), file=open(os.environ["NEXA_RESULTS"], "a"))
        time.sleep(0.3)
"""


RENAME = """names => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) for (const [here, there] of names)
        if (texts.currentNode.data.includes(here)) texts.currentNode.data = texts.currentNode.data.replaceAll(here, there);
}"""


def keep(page: Notebook, name: str, what: Locator) -> None:
    """Keep a picture; for README with the folders of somebody called Ada."""
    if os.environ.get("UPDATE_PICTURES"):
        folders = {
            os.environ["NEXA_HOME"]: "/home/ada/.nexa",
            os.getcwd(): "/home/ada/study",
            str(Path(sys.executable).parent): "/home/ada/.venv/bin",
        }
        page.page.evaluate(RENAME, list(folders.items()))
    path = page.screenshot(f"story-{name}", what)
    if os.environ.get("UPDATE_PICTURES"):
        shutil.copy(path, PICTURES / f"{name}.png")


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("dark"), theme="dark")
    yield server
    server.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_from_a_form_to_a_table(notebook, slurm: Cluster, lab, request, theme):
    server = lab if theme == "light" else request.getfixturevalue("dark")
    Path("train.py").write_text(textwrap.dedent(TRAIN))
    rates = Path(os.environ["XDG_CONFIG_HOME"], "nexa", "rates.toml")
    rates.parent.mkdir(parents=True)
    rates.write_text('currency = "USD"\n[clusters.sandbox.gpus]\nh100 = 2.49\n')
    page = notebook("form = %nexa build", "form.run.results()", server=server)
    page.run(0)
    page.page.keyboard.press("Control+b")  # no list of files
    page.run(1)
    out = page.output(1)
    out.get_by_label("Cluster").select_option("sandbox")
    out.get_by_role("combobox", name="Command").fill("python train.py")
    for name, values in (("lr", "log range"), ("seed", "values")):
        out.get_by_role("combobox", name="Parameter", exact=True).fill(name)
        out.get_by_role("button", name="Add parameter").press("Enter")
        out.get_by_role("button", name="Remove").nth(0 if name == "lr" else 1).wait_for()
        named = out.get_by_role("combobox", name="Name", exact=True).nth(0 if name == "lr" else 1)
        if named.input_value() != name:  # on a busy machine the name comes a little later than the click
            named.fill(name)
        if values != "values":
            out.get_by_label("Kind").first.select_option(values)
    out.get_by_role("textbox", name="Values").nth(0).fill("1e-3, 1e-1, 3")
    out.get_by_role("textbox", name="Values").nth(1).fill("0..3")
    out.get_by_role("textbox", name="Walltime").fill("0:10:00")
    out.get_by_role("textbox", name="GPUs", exact=True).fill("1")
    out.get_by_role("combobox", name="GPU type").or_(out.get_by_role("textbox", name="GPU type")).fill("h100")
    out.get_by_role("textbox", name="At once").fill("6")
    launch = out.get_by_role("button", name="Launch 12 trials, ≤ 4.98 USD")
    launch.wait_for()
    assert serious(page, 1) == []
    keep(page, f"build-{theme}", out)
    launch.click()
    retry = out.get_by_role("button", name="Retry 4 failed")
    retry.wait_for()
    out.locator(".nexa-task-grid").get_by_text("4 FAILED").wait_for()
    grid = out.locator("canvas.nexa-trials")
    grid.click(position={"x": 8 * 18 + 9, "y": 9})  # trial 8 is the first at lr=0.1
    out.get_by_role("log").get_by_text("the loss is NaN at lr=0.1").wait_for()
    assert serious(page, 1) == []
    keep(page, f"run-{theme}", out.locator(".nexa-run").last)
    if theme == "dark":
        return
    Path("fixed").touch()
    retry.click()
    out.get_by_role("button", name="Retry 4 as planned").click()
    out.get_by_text("12 COMPLETED").locator("visible=true").first.wait_for()
    out.get_by_role("button", name="Cost").click()
    out.get_by_text("16 attempts").first.wait_for()
    assert len(runs()) == 1, "launched once"
    page.run(2)
    page.output(2).get_by_text("accuracy").first.wait_for()
