"""The sweep builder: a form for a sweep, with what would happen beside it, live.

Everything in it is a face of a :class:`nexa_sdk.draft.Draft`, whose Python it shows.
"""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk import display
from nexa_sdk.capacity import partition_lines
from nexa_sdk.cluster import Cluster
from nexa_sdk.draft import KINDS, Draft, DraftError, Parameter
from nexa_sdk.errors import InvalidInput
from nexa_sdk.known import clusters
from nexa_sdk.notebook import front_end, sweep_picture
from nexa_sdk.notebook.view import View, close_widgets
from nexa_sdk.program_parameters import ProgramParameter, program_of, read_parameters

if TYPE_CHECKING:
    import ipywidgets

    from nexa_sdk.plan import Plan
    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.watcher import Clock

__all__ = ["SweepView"]

QUIET = 0.15  # seconds without a keystroke until the plan is made
HELD_BACK = 0.2  # seconds in which what was typed before a click may come after it
LATE = 1.0  # seconds in which a name may come after the click that adds it
OFFERED = 200  # programs of the folder that are offered
JOB = {
    "time": "2:00:00",
    "gpus": "per trial",
    "gpu_type": "h100",
    "cpus_per_task": "per trial",
    "mem": "16G",
    "nodes": "1",
    "throttle": "trials",
}
LABELS = {
    "time": "Walltime",
    "gpus": "GPUs",
    "gpu_type": "GPU type",
    "cpus_per_task": "Cores",
    "mem": "Memory",
    "nodes": "Nodes",
    "throttle": "At once",
}


class SweepView(View):
    """A form for a sweep.

    Attributes
    ----------
    draft : Draft
        What is written in it by now.
    plan : Plan or None
        What was previewed last, and is what Launch submits; None while something is wrong.
    run : Run or None
        What was launched last.
    """

    title = "a sweep"

    def __init__(self, draft: Draft | None = None, *, cluster: Cluster | None = None, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._cluster = cluster
        self.draft = draft if draft is not None else Draft()
        if cluster is not None:
            self.draft = _changed(self.draft, cluster=cluster.name)
        self.plan: Plan | None = None
        self._seen: Plan | None = None  # of which the preview is; a launch leaves it
        self.run: Run | None = None
        self._offered: dict[str, ProgramParameter] = {}
        self._read_of: tuple[str, float] | None = None
        self._asked = ""  # the cluster whose partitions these are
        self._partitions: dict[str, str] = {}
        self._before = ""
        self._is_begun = False  # an empty form is nobody's mistake
        self._part: View | None = None
        self._is_filling = False
        self._unnamed_since = -1e9

    def text(self) -> str:
        """Return the Python that the form stands for."""
        try:
            return self.draft.python()
        except DraftError as error:
            return f"# not yet: {error}"

    def html(self) -> str:
        """Return the first trials, what they cost, and the Python."""
        shown = []
        if not self.draft.problems() and self.draft.is_cheap:
            sweep = self.draft.sweep()
            shown.append(f"<b>{len(sweep):,} trial{'s' if len(sweep) != 1 else ''}</b>{sweep_picture.trials_html(sweep)}")
        if self.plan is not None:
            shown.append(sweep_picture.said_html(self.plan))
        if self.run is not None:
            shown.append(self.run._repr_html_())
        code = f'<pre style="font-family:var(--jp-code-font-family, monospace)">{html.escape(self.text())}</pre>'
        return f"<div>{''.join(shown)}{code}</div>"

    def close(self) -> None:
        """Close the form, and the run that it shows."""
        with self.lock:  # a launch that ends now shows its run before, or not at all
            part, self._part = self._part, None
            if part is not None:
                part.close()
            super().close()

    def stays_off(self, widget: ipywidgets.Widget) -> bool:
        """Whether there is nothing to launch: the preview is under way, or something is wrong."""
        return self.plan is None

    # ---- the widgets ---------------------------------------------------------------------------

    def build(self) -> ipywidgets.Widget:
        """Make the form, and the preview beside it."""
        import ipywidgets as w

        from nexa_sdk.notebook.widgets.field import Field
        from nexa_sdk.notebook.widgets.question import Question

        draft = self.draft
        names = list(dict.fromkeys([draft.cluster, *clusters().index]))
        self._fields: dict[str, Any] = {
            "cluster": Field("Cluster", w.Dropdown(options=names, value=draft.cluster), width="32em"),
            "command": Field("Command", w.Combobox(value=draft.command, options=_programs(), placeholder="python train.py"), width="32em"),
            "style": Field(
                "Style",
                w.Dropdown(
                    options=[("automatic", ""), *((name, name) for name in ("flags", "hydra", "env", "template"))],
                    value=draft.style,
                ),
            ),
            "name": Field("Name", w.Text(value=draft.name, placeholder="program's")),
            "n": Field("Draw", w.Text(value=draft.n, placeholder="trials")),
            "seed": Field("Seed", w.Text(value=draft.seed, placeholder="0")),
            "where": Field("Only where", w.Text(value=draft.where, placeholder="lr * batch < 1"), width="32em"),
            "partition": Field("Partition", w.Combobox(value=draft.job.get("partition", ""), options=[])),
            **{name: Field(LABELS[name], w.Text(value=draft.job.get(name, ""), placeholder=hint)) for name, hint in JOB.items()},
            "budget": Field("Budget", w.Text(value=draft.budget, placeholder="50 USD")),
            "env": Field("Environment", w.Textarea(value=draft.env, placeholder="NAME=value, a line each", rows=2), width="32em"),
            "job": Field("More", w.Textarea(value=_more(draft.job), placeholder="account=ml\nretry=by-cause", rows=2), width="32em"),
        }
        self._rows = w.VBox([])
        self._add_name = w.Combobox(description="Parameter", placeholder="name", style={"description_width": "7.5em"})
        self._add_name.layout.max_width = "100%"
        add = w.Button(description="Add parameter", icon="plus", layout={"width": "auto"})
        add.on_click(self.guard(lambda _: self._add(self._add_name.value)))
        self._add_name.observe(self.guard(lambda change: self._named_late(change["new"])), "value")
        self._launch = w.Button(description="Launch", button_style="primary", icon="play", layout={"width": "auto"}, disabled=True)
        self._launch.on_click(self.guard(lambda _: self._submit()))
        self._check = w.Button(description="Ask the cluster", icon="question", layout={"width": "auto"}, disabled=True)
        self._check.on_click(self.guard(lambda _: self._preflight()))
        self._question = Question(self)
        self._free = w.HTML()  # of the cluster
        self._counted = w.HTML()
        self._counted.add_class("nexa-count")
        self._said = w.HTML()
        self._run_place = w.VBox([])
        for field in self._fields.values():
            field.input.observe(self.guard(lambda _: self._typed()), "value")
        self._fields["cluster"].input.observe(self.guard(lambda _: self._ask_partitions()), "value")
        self._fields["partition"].input.observe(self.guard(lambda _: self._show_free()), "value")
        self._fields["command"].input.observe(self.guard(lambda _: self._offer()), "value")
        for parameter in draft.parameters:
            self._add_row(parameter)
        f = self._fields
        wrap = {"flex_flow": "row wrap"}
        form = w.VBox(
            [
                f["cluster"],
                self._free,
                f["command"],
                w.HTML("<b>Parameters</b>"),
                self._rows,
                w.HBox([self._add_name, add], layout=wrap),
                w.HBox([f["n"], f["seed"]], layout=wrap),
                f["where"],
                w.HTML("<b>Resources</b>"),
                w.HBox([f[name] for name in ("partition", *JOB, "budget", "name", "style")], layout=wrap),
                f["env"],
                f["job"],
            ],
            layout={"flex": "1 1 34em", "min_width": "0"},
        )
        preview = w.VBox([self._counted, self._said, self._build_previews()], layout={"flex": "1 1 34em", "min_width": "0"})
        buttons = w.HBox([self._launch, self._check], layout=wrap)
        self._offer()
        self._ask_partitions()
        self._typed()
        return w.VBox([w.HBox([form, preview], layout=wrap), buttons, self._question, self._run_place])

    def _build_previews(self) -> ipywidgets.Widget:
        import ipywidgets as w

        from nexa_sdk.notebook.widgets.sections import Sections

        self._trials, self._script = w.HTML(), w.HTML()
        wide = {"width": "100%", "height": "14em"}
        self._python, self._yaml = w.Textarea(layout=wide), w.Textarea(layout=wide)
        self._path = w.Text(value="job.sbatch", description="File", layout={"width": "20em", "max_width": "100%"})
        save = w.Button(description="Save script", icon="save", layout={"width": "auto"})
        save.on_click(self.guard(lambda _: self._save_script()))
        self._copies: dict[str, Any] = {}
        if front_end.widgets() == "all":
            from nexa_sdk.notebook.widgets.copying import CopyButton

            self._copies = {name: CopyButton(label=f"Copy as {name}") for name in ("Python", "YAML")}
        self._previews = Sections(
            self,
            {
                "Trials": self._trials,
                "Script": w.VBox([self._script, w.HBox([self._path, save], layout={"flex_flow": "row wrap"})]),
                "Python": w.VBox([self._python, *filter(None, [self._copies.get("Python")])]),
                "YAML": w.VBox([self._yaml, *filter(None, [self._copies.get("YAML")])]),
            },
        )
        return self._previews

    # ---- parameters ----------------------------------------------------------------------------

    def _add(self, name: str) -> None:
        """Add a row; what the program says of the parameter stands in it already."""
        known = self._offered.get(name)
        text, kind = "", "values"
        if known is not None:
            text = ", ".join(map(str, known.choices)) or ("" if known.default is None else display.cell_text(known.default))
        self._add_row(Parameter(name.strip(), kind, text))
        self._unnamed_since = self.clock.now() if not name.strip() else -1e9
        self._add_name.value = ""
        self._typed()

    def _named_late(self, name: str) -> None:
        """Give a name to the row that was just added: a front end holds back what is typed while the kernel is busy, and no click."""
        if not name.strip() or self.clock.now() - self._unnamed_since > LATE or not self._rows.children:
            return
        row = self._rows.children[-1]
        if row.name_input.value.strip():
            return
        self._rows.children = self._rows.children[:-1]
        close_widgets(row)
        self._add(name)

    def _add_row(self, parameter: Parameter) -> None:
        import ipywidgets as w

        from nexa_sdk.notebook.widgets.field import Field

        narrow = {"description_width": "3.5em"}
        name = w.Combobox(value=parameter.name, options=list(self._offered))
        words = w.HTML(layout={"width": "calc(100% - 4em)", "margin": "0 0 0 4em"})  # under the whole row
        field = Field("Name", name, width="15em", words=words)
        kind = w.Dropdown(options=list(KINDS), value=parameter.kind, description="Kind", style=narrow, layout={"width": "12em"})
        text = w.Text(value=parameter.text, description="Values", placeholder=KINDS[parameter.kind], style=narrow)
        text.layout.width, text.layout.max_width = "22em", "100%"
        up = w.Button(icon="arrow-up", tooltip="Move up: the last one varies fastest", layout={"width": "auto"})
        remove = w.Button(icon="trash", tooltip=f"Remove {parameter.name}", description="Remove", layout={"width": "auto"})
        row = w.HBox([field, kind, text, up, remove, words], layout={"flex_flow": "row wrap"})
        name.style.description_width = narrow["description_width"]
        row.field, row.kind, row.values_text, row.name_input = field, kind, text, name

        def changed(_: Any) -> None:
            text.placeholder = KINDS[kind.value]
            self._typed()

        def gone(_: Any) -> None:
            self._rows.children = [other for other in self._rows.children if other is not row]
            close_widgets(row)
            self._typed()

        def moved(_: Any) -> None:
            rows = list(self._rows.children)
            place = rows.index(row)
            if place:
                rows[place - 1 : place + 1] = [row, rows[place - 1]]
                self._rows.children = rows
                self._typed()

        up.on_click(self.guard(moved))
        for widget in (name, kind, text):
            widget.observe(self.guard(changed), "value")
        remove.on_click(self.guard(gone))
        self._rows.children = [*self._rows.children, row]

    def _offer(self) -> None:
        """Offer the parameters that the program's source tells of."""
        path = program_of(self._fields["command"].input.value)
        key = (str(path), path.stat().st_mtime) if path is not None else None
        if key == self._read_of:
            return
        self._read_of = key
        found = read_parameters(path) if path is not None else []
        self._offered = {parameter.name: parameter for parameter in found}
        self._add_name.options = list(self._offered)
        for row in self._rows.children:
            row.name_input.options = list(self._offered)
        if found and all(parameter.style == "hydra" for parameter in found) and not self._fields["style"].input.value:
            self._fields["style"].input.value = "hydra"

    # ---- what it becomes -----------------------------------------------------------------------

    def _read(self) -> Draft:
        values = {name: field.input.value for name, field in self._fields.items()}
        job = {name: values[name] for name in ("partition", *JOB)}
        for line in values["job"].splitlines():
            key, equals, text = line.partition("=")
            if key.strip():
                job[key.strip()] = text.strip() if equals else "true"
        rows = [Parameter(row.name_input.value.strip(), row.kind.value, row.values_text.value) for row in self._rows.children]
        texts = {name: values[name] for name in ("cluster", "command", "style", "name", "n", "seed", "where", "env", "budget")}
        return Draft(parameters=rows, job=job, **texts)

    def _typed(self) -> None:
        """Say at once what is wrong, or how many trials there are; the rest comes from a thread."""
        self.draft = draft = self._read()
        self._launch.disabled = self._check.disabled = True
        self.plan = None
        problems = draft.problems()
        self._is_begun |= bool(draft.command.strip() or draft.parameters)
        self._mark({name: words for name, words in problems.items() if self._is_begun or name != "command"})
        if problems:
            begin = "<b>A new sweep</b>: write its command, as in <code>python train.py</code>"
            self._counted.value = f"<b>Not yet</b>: {html.escape('; '.join(problems.values()))}" if draft.command.strip() else begin
            not_yet = f"# not yet: {DraftError(problems)}"
            self._put_nothing("", {"python": not_yet, "yaml": not_yet})
            return
        count = draft.count()
        self._counted.value = f"<b>{count:,} trial{'s' if count != 1 else ''}</b>" if count is not None else "<b>counting …</b>"
        self.newest("preview", lambda: self._preview(draft), self._put_preview, after=QUIET)

    def _mark(self, problems: Mapping[str, str]) -> None:
        rest = dict(problems)
        for name, field in self._fields.items():
            field.say(rest.pop(name, ""))
        for place, row in enumerate(self._rows.children):
            row.field.say(rest.pop(f"parameter {place}", ""))
        if rest:
            self._fields["job"].say("; ".join(f"{name}: {words}" for name, words in rest.items()))

    def _where(self, name: str) -> Cluster:
        return self._cluster if self._cluster is not None and self._cluster.name == name else Cluster(name)

    def _preview(self, draft: Draft) -> tuple[Draft, Plan | None, dict[str, Any]]:
        """Plan it, in a thread; what is wrong with the plan is said, too."""
        told = {}
        try:
            told["python"] = draft.python()
            told["yaml"] = _yaml_or_why_not(draft)
            plan = self._where(draft.cluster).plan(draft.sweep(), draft.job_object(), budget=draft.budget_object(), allow_unknown=False)
            told["script"] = plan.script
            told["trials"] = sweep_picture.trials_html(plan.sweep)
            told["said"] = sweep_picture.said_html(plan)
            told["button"] = sweep_picture.button_text(plan)
        except InvalidInput as error:
            return draft, None, {"python": "", "yaml": "", **told, "wrong": str(error)}
        return draft, plan, told

    def _put_nothing(self, said: str, told: Mapping[str, str]) -> None:
        """Show no preview but these texts: what was previewed before is not what is written by now."""
        self._seen = None
        self._said.value, self._trials.value, self._script.value = said, "", ""
        self._launch.description = "Launch"
        self._put_texts(told)

    def _put_texts(self, told: Mapping[str, str]) -> None:
        self._python.value, self._yaml.value = told["python"], told["yaml"]
        for name, button in self._copies.items():
            button.text = told[name.lower()]

    def _put_preview(self, previewed: tuple[Draft, Plan | None, dict[str, Any]]) -> None:
        draft, plan, told = previewed
        if draft is not self.draft:
            return
        if plan is None:
            self._counted.value = "<b>Not yet</b>"
            self._put_nothing(f'<div role="alert">✗ {html.escape(told["wrong"])}</div>', told)
            return
        self.plan = self._seen = plan
        count = len(plan.sweep)
        self._counted.value = f"<b>{count:,} trial{'s' if count != 1 else ''}</b>"
        self._said.value = told["said"]
        self._trials.value = told["trials"]
        same = told["script"].replace(plan.id, "…")
        self._script.value = sweep_picture.marked_script(told["script"], same, self._before or same)
        self._before = same
        self._put_texts(told)
        self._launch.description = told["button"]
        self._launch.disabled = self._check.disabled = False

    # ---- the cluster ---------------------------------------------------------------------------

    def _ask_partitions(self) -> None:
        name = self._fields["cluster"].input.value
        if name != self._asked:  # what is free elsewhere says nothing of this one
            self._asked = name
            self._partitions = {}
            self._fields["partition"].input.options = []
            self._show_free()

        def put(found: dict[str, str]) -> None:
            self._partitions = found
            self._fields["partition"].input.options = list(filter(None, found))
            self._show_free()

        self.newest("partitions", lambda: partition_lines(self._where(name)), put)

    def _show_free(self) -> None:
        self._free.value = sweep_picture.free_html(self._partitions, self._fields["partition"].input.value.strip())

    def _preflight(self) -> None:
        plan = self.plan
        if plan is None:
            return
        self._ask_partitions()

        def put(table: Any) -> None:
            if self.plan is not plan:
                return  # what was asked about is not seen any more
            rows = [
                [row["what"], display.Markup(sweep_picture.verdict_mark(row["verdict"])), row["words"]] for row in table.to_dict("records")
            ]
            cost = "<br>".join(map(html.escape, plan.cost().summary))
            self._said.value = f"<div>{cost}</div>{display.table(['', '', ''], rows)}"

        self.work("ask the cluster", plan.preflight, put, words="asking the cluster", off=[self._check])

    def _submit(self) -> None:
        plan = self.plan
        if plan is None:
            return  # a second click
        self.work("launch", lambda: self._submit_seen(plan), lambda run: self._launched(run, plan), words="launching", off=[self._launch])

    def _submit_seen(self, plan: Plan) -> Run:
        """Submit what was seen, unless a front end held back what was typed before the click; see `_named_late`."""
        time.sleep(HELD_BACK)
        if self.plan is not plan:
            raise InvalidInput("the form was changed as it was launched, so nothing was; look at it, and launch again")
        return plan.submit()

    def _launched(self, run: Run, plan: Plan) -> None:
        from nexa_sdk.notebook.views.run import RunView

        if self.plan is plan:  # else the form stands for another by now
            self._launch.description = f"Launched {run.id}"
            self._launch.disabled = self._check.disabled = True
            self.plan = None
        self.run = run
        if self._part is not None:
            self._part.close()
        self._part = RunView(run, clock=self.clock)
        self._run_place.children = [self._part.embed()]
        self._save()

    def _save_script(self) -> None:
        if self._seen is None:
            raise InvalidInput("there is no script yet: something is wrong above")
        path, script = Path(self._path.value.strip()).expanduser(), self._seen.script
        if not path.name:
            raise InvalidInput("say which file the script goes to, as in job.sbatch")

        def write() -> None:
            path.write_text(script)
            self.status.say(f"saved as {path}")

        if path.exists() and path.read_text(errors="replace") != script:
            words = f"<div>{html.escape(str(path))} is there already, and is another.</div>"
            self._question.ask(words, "Overwrite it", write, lambda _: None, doing="")
            return
        write()


def _yaml_or_why_not(draft: Draft) -> str:
    try:
        return draft.yaml()
    except DraftError as error:
        return f"# {error}"


def _changed(draft: Draft, **fields: Any) -> Draft:
    from dataclasses import replace

    return replace(draft, **fields)


def _programs() -> list[str]:
    """Offer the programs of this folder and of those in it."""
    found: list[str] = []
    for pattern, program in (("*.py", "python"), ("*/*.py", "python"), ("*.sh", "bash")):
        found += [f"{program} {path}" for path in sorted(Path().glob(pattern)) if not path.name.startswith((".", "test_"))]
    return found[:OFFERED]


def _more(job: Mapping[str, str]) -> str:
    return "\n".join(f"{name}={text}" for name, text in job.items() if name not in (*JOB, "partition"))
