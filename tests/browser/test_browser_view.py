"""What every view does, in a real browser: two outputs, of which one is seen; an end; errors that are told."""

from __future__ import annotations

import nbformat
from axe import serious
from playwright.sync_api import expect

KIND = """
import threading
import ipywidgets
from nexa_sdk.notebook.view import Looker, View, open_views

class Counter(View):
    title = "counting"
    count = 0
    def look(self):
        self.count += 1
        return True
    def listen(self, heard):
        return Looker(heard, 0.2, self.clock)
    def build(self):
        self.label = ipywidgets.Label("")
        self.button = ipywidgets.Button(description="Break")
        self.button.on_click(self.guard(lambda _: {}["nothing"]))
        return ipywidgets.VBox([self.label, self.button])
    def draw(self):
        self.label.value = f"live {self.count}"
    def html(self):
        return f"<b>saved {self.count}</b>"
    def text(self):
        return f"text {self.count}"
"""


def test_widgets_are_seen_while_they_live_and_html_afterwards(notebook, lab):
    page = notebook(
        KIND,
        "view = Counter().show()",
        "view.close()",
        "from IPython.display import HTML; HTML('<button></button>')",
        "import time; time.sleep(1); print(len(open_views()), [t.name for t in threading.enumerate() if t.name.startswith('nexa')])",
    )
    page.run(0), page.run(1), page.run(2)
    out = page.output(2)
    out.get_by_text("live 3").wait_for()
    expect(out.get_by_text("saved")).not_to_be_visible()
    assert serious(page, 2) == []
    out.get_by_role("button", name="Break").click()
    out.get_by_role("status").get_by_text("KeyError: 'nothing'", exact=True).click()
    out.get_by_text("Traceback (most recent call last)").wait_for()
    page.run(4)
    page.output(4).get_by_role("button").wait_for()
    assert "button-name" in serious(page, 4)[0], "axe-core finds what is there to be found"
    page.run(2)  # again: the first one ends
    out.get_by_text("live 2").wait_for()
    page.run(5)
    page.output(5).get_by_text("1 ['nexa-look']").wait_for()
    page.run(3)
    out.get_by_text("saved").wait_for()
    expect(out.get_by_role("button")).to_have_count(0)
    page.run(5)
    page.output(5).get_by_text("0 []").wait_for()


def test_a_restarted_kernel_leaves_the_last_state(notebook, lab):
    page = notebook(KIND, "view = Counter().show()", "view.close()")
    page.run(0), page.run(1), page.run(2)
    out = page.output(2)
    out.get_by_text("live 3").wait_for()
    page.restart()
    page.screenshot("restarted")
    out.get_by_text("saved").wait_for()
    expect(out.get_by_text("live")).not_to_be_visible()
    page.save()
    (saved,) = lab.root.glob("test_a_restarted*.ipynb")
    outputs = nbformat.read(saved, 4).cells[2].outputs
    assert "saved" in "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    page.command("Kernel", "Shut Down Kernel")
    page.page.get_by_text("No Kernel |").wait_for()
    page.reload()
    out.get_by_text("saved").wait_for()
    assert not page.page.get_by_text("Error displaying widget").is_visible()
    page.run(0), page.run(1), page.run(2)
    out.get_by_text("live 2").wait_for()
    page.save()
    page.reload_with_widgets(out.get_by_text("live"))  # its kernel lives: the widgets do, too
    expect(out.get_by_text("saved")).not_to_be_visible()
    page.run(3)
    out.get_by_text("saved").wait_for()
    page.save()
    page.reload()  # its kernel lives, its widgets don't
    out.get_by_text("saved").wait_for()
    assert not page.page.get_by_text("Error displaying widget").is_visible()
    assert not page.page.get_by_text("Loading widget").is_visible()
