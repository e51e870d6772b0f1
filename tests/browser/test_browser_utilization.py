"""The live picture of utilization in a real browser: a chart that grows in place, and is whole again in another kernel."""

from __future__ import annotations

import sys
from pathlib import Path

from axe import serious
from playwright.sync_api import expect

from nexa_sdk import Cluster, Sweep

sys.path[:0] = [str(Path(__file__).parents[1] / "gpus")]

from stand_in import library_folder  # noqa: E402

WAITS = """
    deadline = time.time() + 500
    while not os.path.exists("go") and time.time() < deadline:
        time.sleep(0.05)
"""
DRAWN = """() => {
    const found = document.querySelectorAll('.js-plotly-plot');
    return found.length === 1 && found[0].data.length ? [found[0].data.length, found[0].data[0].y.length, found[0].layout.xaxis.range] : null;
}"""

FITS = """() => {
    const plot = document.querySelector('.js-plotly-plot');
    const drawn = Number(plot.querySelector('.main-svg').getAttribute('width'));
    return drawn === plot.clientWidth && Math.abs(drawn - plot.closest('.jp-OutputArea-output').clientWidth) < 60;
}"""

# On a busy machine a large script takes longer to load than anywidget waits for one.
SLOWLY = """() => {
    const Whole = Blob;
    window.Blob = class extends Whole {
        constructor(parts, options) {
            super(parts?.[0]?.length > 1e6 ? ["await new Promise((go) => setTimeout(go, 3000));", ...parts] : parts, options);
        }
    };
}"""


def test_a_chart_grows_in_place_and_is_whole_in_another_kernel(notebook, program):
    env = {"LD_LIBRARY_PATH": str(library_folder()), "STAND_IN_GPUS": "2"}
    run = Cluster("local").launch(Sweep(program(WAITS)), time="0:10:00", telemetry=0.2, env=env)
    page = notebook(f"%nexa top {run.id}")
    page.page.evaluate(SLOWLY)
    page.run(0), page.run(1)
    out = page.output(1)
    out.get_by_text("GPU ").first.wait_for()
    traces, spans, _ = page.page.wait_for_function(DRAWN).json_value()
    assert traces == 3, "two GPUs and the cores"
    page.page.wait_for_function(f"() => document.querySelector('.js-plotly-plot').data[0].y.length > {spans + 2}")
    expect(out.locator(".js-plotly-plot .scatterlayer .js-line")).to_have_count(3)
    assert serious(page, 1) == []
    page.screenshot("utilization", out)
    page.page.set_viewport_size({"width": 700, "height": 1000})
    page.page.wait_for_function(FITS)
    page.page.wait_for_function(f"() => document.querySelector('.js-plotly-plot').data[0].y.length > {spans + 4}")
    page.page.set_viewport_size({"width": 1280, "height": 1000})
    page.page.wait_for_function(FITS)
    page.restart()
    page.run(0), page.run(1)
    page.page.wait_for_function(f"() => {{ const found = ({DRAWN})(); return found && found[1] > {spans + 2}; }}")
    Path("go").touch()
    run.wait()
    page.save()
    page.screenshot("utilization-ended", out)
    assert not page.errors_of_ours()
