"""The same views elsewhere: served by Voila as an app, in Notebook 7, and in two browsers on one notebook."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from axe import serious, serious_within
from lab import PATIENCE, SCREENSHOTS, Notebook, Server
from playwright.sync_api import expect

from nexa_sdk import Cluster, Sweep, runs

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def test_voila_serves_the_app(browser, tmp_path):
    folder = tmp_path / "served"
    (folder / "work").mkdir(parents=True)
    for name in ("app.ipynb", "train.py"):
        shutil.copy(NOTEBOOKS / name, folder / "work")
    server = Server(folder, app="voila", notebook="app.ipynb")
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.set_default_timeout(PATIENCE)
        page.goto(server.url())
        expect(page.get_by_role("combobox", name="Command")).to_have_value("python train.py")
        page.get_by_text("cores free").locator("visible=true").first.wait_for()
        page.get_by_role("textbox", name="Walltime").fill("0:03:00")
        page.get_by_role("textbox", name="Values").nth(2).fill("2")
        page.get_by_role("textbox", name="Values").nth(0).fill("0.3")  # last: it is what the button tells the number of
        page.get_by_role("button", name="Launch 2 trials").click()
        page.get_by_text("2 COMPLETED").locator("visible=true").first.wait_for()
        (run,) = runs().index
        page.get_by_role("button", name="Open").first.wait_for()
        page.get_by_text(run).locator("visible=true").nth(1).wait_for()  # the overview has it, too
        assert not page.get_by_text("from nexa_sdk import").locator("visible=true").count(), "no code is seen"
        assert serious_within(page, ".nexa-run") == []
        page.screenshot(path=SCREENSHOTS / "voila.png", full_page=True)
        page.close()
    finally:
        server.close()


def test_notebook_7_shows_the_same(notebook, browser, program, tmp_path):
    run = Cluster("local").launch(Sweep(program("print('hello', sys.argv)"), {"x": [1, 2, 3]}), time="0:01:00")
    server = Server(tmp_path / "notebook7", app="notebook")
    try:
        page = notebook("from nexa_sdk import attach, ui", f"attach({run.id!r})", "ui.cluster('local')", server=server)
        for number in (1, 2, 3):
            page.run(number)
        out = page.output(2)
        out.get_by_text("3 COMPLETED").locator("visible=true").nth(1).wait_for()  # the grid's legend
        out.locator("canvas.nexa-trials").click(position={"x": 9, "y": 9})
        out.get_by_role("log").get_by_text("hello").wait_for()
        page.output(3).get_by_text("cores free").locator("visible=true").first.wait_for()
        assert serious(page, 2) == []
        page.screenshot("notebook7")
    finally:
        server.close()


def test_two_browsers_on_one_notebook_share_its_views_and_launch_once(notebook, browser, lab, program):
    program("print('hello')")
    first = notebook("%load_ext nexa_sdk", "form = %nexa build", "form.run.id")
    for number in range(3):
        first.run(number)
    out = first.output(2)
    out.get_by_role("combobox", name="Command").fill("python train.py")
    out.get_by_role("textbox", name="Walltime").fill("0:01:00")
    out.get_by_role("button", name="Launch 1 trial").wait_for()
    first.save()
    name = first.page.url.rpartition("/")[2].partition("?")[0]
    second = Notebook.open(browser, lab, name)
    try:
        other = second.output(2)
        second.reload_with_widgets(other.get_by_role("combobox", name="Command"))
        expect(other.get_by_role("combobox", name="Command")).to_have_value("python train.py")
        other.get_by_role("textbox", name="Walltime").fill("0:02:00")  # is typed there, and seen here
        expect(out.get_by_role("textbox", name="Walltime")).to_have_value("0:02:00")
        out.get_by_role("button", name="Python", exact=True).click()
        expect(out.locator("textarea").nth(2)).to_have_value(re.compile("0:02:00"))  # what is launched is of that
        other.get_by_role("button", name="Launch 1 trial", disabled=False).wait_for()
        launch = other.get_by_role("button", name="Launch 1 trial")
        out.get_by_role("button", name="Launch 1 trial").click(no_wait_after=True)
        launch.dispatch_event("click")  # from both, and at once
        for shown in (out, other):
            shown.get_by_text("1 COMPLETED").locator("visible=true").first.wait_for()
        assert len(runs()) == 1
        second.screenshot("second-browser")
    finally:
        second.close()
