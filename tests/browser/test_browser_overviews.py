"""A cluster, its bill and its runs in a real browser."""

from __future__ import annotations

from axe import serious

from nexa_sdk import Cluster, Sweep


def test_a_cluster_its_bill_and_its_runs(notebook, program):
    run = Cluster("local").launch(Sweep(program("print('hello')"), {"x": [1, 2, 3]}), time="0:01:00").wait(progress=False)
    cells = ["from nexa_sdk import Cluster, ui\ncluster = Cluster('local')\nui.cluster(cluster)", "ui.cost(cluster)", "ui.runs()"]
    page = notebook(*cells)
    page.run_all()
    page.output(1).get_by_text("cores free").locator("visible=true").first.wait_for()
    page.output(1).get_by_role("button", name="My runs").click()
    page.output(1).get_by_text(run.id).first.wait_for()
    page.output(2).get_by_role("button", name="Bars").click()
    page.output(2).locator(".js-plotly-plot .main-svg").first.wait_for()
    page.output(3).get_by_role("button", name="Open").click()
    page.output(3).locator("canvas.nexa-trials").wait_for()
    for number, name in enumerate(("cluster", "cost", "runs"), start=1):
        assert serious(page, number) == [], name
        page.screenshot(name, page.output(number))
