"""A remote cell in a real browser: its progress bar and its figure, as one's own would be."""

from __future__ import annotations

import re
from pathlib import Path

from axe import serious
from playwright.sync_api import expect

CELL = """\
%%nexa remote -i n -o total --time 0:10:00
import os, sys, time
import matplotlib.pyplot as plt
total = 0
for i in range(n):
    total += i
    sys.stderr.write(f"\\rfitting {i + 1}/{n} |{'#' * (i + 1):{n}}|")
    while i == 3 and not os.path.exists("go"): time.sleep(0.05)
print()
plt.plot(range(n))
plt.title("loss")
plt.show()
print("fitted")
{"total": total}"""


def test_a_progress_bar_and_a_figure_come_into_the_cell(notebook):
    page = notebook("n = 8", CELL, "print('total is', total)", "%%nexa remote --time 0:02:00\nimport math\nmath.sqrt(-1)", width=760)
    for number in range(3):
        page.run(number)
    out = page.output(2)
    out.get_by_text("fitting 4/8").wait_for()
    out.get_by_text(re.compile(r"RUNNING")).wait_for()
    expect(out.get_by_text(re.compile("fitting")), "a progress bar overwrites itself").to_have_count(1)
    page.screenshot("remote-running")
    Path("go").touch()
    page.run(3)
    page.output(3).get_by_text("total is 28").wait_for()
    out.get_by_text("{'total': 28}").wait_for()
    expect(out).to_contain_text("fitting 8/8")
    expect(out).not_to_contain_text("fitting 4/8")
    expect(out.locator("img")).to_have_count(1)
    out.get_by_text("COMPLETED").wait_for()
    page.screenshot("remote-completed")
    page.run(4)
    page.output(4).get_by_text("ValueError: ").first.wait_for()
    page.output(4).get_by_text("CellFailed").first.wait_for()
    page.screenshot("remote-error", page.cell(4))
    assert [found for found in serious(page, 2) if "image-alt" not in found] == []
    assert page.errors_of_ours() == []
