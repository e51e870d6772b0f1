"""A run in a real browser: watch it, click a failed task, read its log, mend it, retry, see it complete."""

from __future__ import annotations

import re
from pathlib import Path

from axe import serious
from playwright.sync_api import expect

from nexa_sdk import Cluster, Sweep

TRAIN = """
    number = int(sys.argv[2])
    print(f"\\x1b[32mtrial {number}\\x1b[0m of <many>", flush=True)
    for step in range(20):
        print(f"\\rstep {step}", end="", flush=True)
    with open(os.environ["NEXA_RESULTS"], "a") as file:
        file.write(json.dumps({"loss": 1 / (1 + number), "step": 1}) + "\\n")
    deadline = time.time() + 500
    while number == 5 and not os.path.exists("go") and time.time() < deadline:
        time.sleep(0.05)
    if number % 4 == 3 and not os.path.exists("mended"):
        sys.exit("the <b>data</b> is not there")
"""


def test_a_failed_trial_is_found_read_mended_and_run_again(notebook, program):
    run = Cluster("local").launch(Sweep(program(TRAIN), {"n": list(range(12))}), time="0:10:00", throttle=4)
    page = notebook(f"from nexa_sdk import attach\nrun = attach({run.id!r})\nrun", "run.status()")
    page.run(0), page.run(1)
    out = page.output(1)
    # the view goes on with the run
    out.get_by_text(re.compile("1 RUNNING|RUNNING")).first.wait_for()
    Path("go").touch()
    retry = out.get_by_role("button", name="Retry 3 failed")
    retry.wait_for()
    # by mouse: a trial of the grid, once it has its states
    out.locator(".nexa-task-grid").get_by_text("3 FAILED").wait_for()
    grid = out.locator(".nexa-trials")
    box = grid.bounding_box()
    across = int(box["width"] // 18)
    grid.click(position={"x": (3 % across) * 18 + 9, "y": (3 // across) * 18 + 9})
    out.get_by_text("9 COMPLETED").locator("visible=true").last.wait_for()  # the legend
    log = out.get_by_role("log")
    log.get_by_text("the <b>data</b> is not there").wait_for()
    assert "trial 3 of <many>\nstep 19" in log.inner_text(), "no colours, and of the progress its last state"
    # by keyboard: the next ones
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("Enter")
    out.get_by_text("Trial 4", exact=True).wait_for()
    assert serious(page, 1) == []
    page.screenshot("run", out)
    # mend, and run again what failed
    Path("mended").touch()
    retry.click()
    out.get_by_text("By their causes none is run again").wait_for()
    page.screenshot("run-retry", out)
    out.get_by_role("button", name="Retry 3 as planned").click()
    out.get_by_text("12 COMPLETED").locator("visible=true").first.wait_for()
    expect(out.get_by_role("button", name="Retry failed")).to_be_disabled()
    assert sorted(attempt.number for attempt in run.refresh()) == [1] * 9 + [2] * 3, "once each"
    # its tables
    out.get_by_role("button", name="Table").click()
    out.get_by_role("searchbox").wait_for()
    out.get_by_role("button", name="Results").click()
    out.get_by_role("button", name="Draw").click()
    out.locator(".js-plotly-plot .main-svg").first.wait_for()
    page.screenshot("run-results", out)
    # another browser on the same notebook, or this one anew, sees the same
    page.save()
    page.reload_with_widgets(out.get_by_role("searchbox"))
    out.get_by_text("12 COMPLETED").locator("visible=true").first.wait_for()
    out.get_by_role("button", name="Trials").click()
    out.locator(".nexa-trials").wait_for()
    page.screenshot("run-reloaded", out)
    page.restart()
    out.get_by_text("12 COMPLETED").locator("visible=true").first.wait_for()
    expect(out.locator(".nexa-trials")).not_to_be_visible()
    page.screenshot("run-saved", out)
    page.run(0), page.run(1)
    out.locator(".nexa-trials").wait_for()
    assert sorted(attempt.number for attempt in run.refresh()) == [1] * 9 + [2] * 3, "nothing was launched anew"
