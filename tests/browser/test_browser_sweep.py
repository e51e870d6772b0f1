"""A sweep built by hand in a real browser: typed, marked where it is wrong, previewed, launched once, seen to its end."""

from __future__ import annotations

import re

from axe import serious
from playwright.sync_api import expect

from nexa_sdk import runs

TRAIN = """
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--opt", choices=["adam", "sgd"])
    given = parser.parse_args()
    print(given)
"""


def test_a_sweep_is_built_by_hand_and_launched_once(notebook, program):
    program(TRAIN)
    page = notebook("form = %nexa build", "form.run.id, len(form.draft.sweep())")
    page.run(0), page.run(1)
    out = page.output(1)
    command = out.get_by_role("combobox", name="Command")
    command.fill("python train.py")
    out.get_by_text("1 trial", exact=True).wait_for()
    # what the program takes is offered, with the values that it names
    out.get_by_role("combobox", name="Parameter", exact=True).fill("opt")
    out.get_by_role("button", name="Add parameter").click()
    out.get_by_text("2 trials", exact=True).wait_for()
    out.get_by_role("combobox", name="Parameter", exact=True).fill("lr")
    out.get_by_role("button", name="Add parameter").click()
    values = out.get_by_role("textbox", name="Values").nth(1)
    expect(values).to_have_value("0.001")
    values.fill("1e-3, 1e-4, 1e-5")
    out.get_by_text("6 trials", exact=True).wait_for()
    # what is wrong is said at its field, and nothing can be launched meanwhile
    walltime = out.get_by_role("textbox", name="Walltime")
    walltime.fill("soon")
    out.get_by_role("alert").get_by_text("soon").wait_for()
    expect(out.get_by_role("button", name="Launch")).to_be_disabled()
    walltime.fill("0:02:00")
    out.get_by_role("button", name="Launch 6 trials", disabled=False).wait_for()  # what changes next is compared with this
    # the script, and what has changed in it
    out.get_by_role("button", name="Script", exact=True).click()
    out.get_by_role("textbox", name="At once").fill("3")
    out.get_by_text("#SBATCH --array=0-5%3").wait_for()
    out.get_by_text("1 line changed").wait_for()
    assert serious(page, 1) == []
    page.screenshot("builder", out)
    out.get_by_role("button", name="Python", exact=True).click()
    python = re.escape("grid={'opt': ['adam', 'sgd'], 'lr': [0.001, 0.0001, 1e-05]}")
    expect(out.locator("textarea").nth(2)).to_have_value(re.compile(python))
    out.get_by_role("button", name="Ask the cluster").click()
    out.get_by_text("asking the cluster").wait_for(state="detached")
    # once, however often it is clicked
    out.get_by_role("button", name="Launch 6 trials").dblclick()
    out.get_by_text("6 COMPLETED").locator("visible=true").first.wait_for()
    assert len(runs()) == 1
    page.screenshot("builder-launched", out)
    page.run(2)
    page.output(2).get_by_text(f"('{runs().index[0]}', 6)").wait_for()
    page.page.set_viewport_size({"width": 800, "height": 1600})
    page.screenshot("builder-narrow")
