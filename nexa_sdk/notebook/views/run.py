"""A run: how far it is, its trials as a grid, the log of the one chosen, its tables, and what can be done with it."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nexa_sdk import display
from nexa_sdk.notebook import front_end, run_picture
from nexa_sdk.notebook.view import Closes, View

if TYPE_CHECKING:
    import ipywidgets
    import pandas as pd

    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.watcher import Clock

__all__ = ["RunView"]

COSTED_EVERY = 60.0  # seconds between two looks at what it cost so far


class RunView(View):
    """A live view of a run. It stops by itself when the run has ended, and goes on when trials are run again.

    Attributes
    ----------
    run : Run
    """

    def __init__(self, run: Run, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self.run = run
        self._is_first = True
        self._cost = ""
        self._costed_at = -1e9
        self._parts: dict[str, View] = {}

    @property
    def title(self) -> str:
        """The run's id."""
        return self.run.id

    @property
    def is_over(self) -> bool:
        """Whether all trials have ended."""
        return self.run.is_finished

    def listen(self, heard: Callable[[], bool]) -> Closes:
        """Listen to the cluster's poller."""
        return self.run.subscribe(heard)

    def look(self) -> bool:
        """Ask for the trials' states; how long they have been running is news each time."""
        self.run.refresh(max_age=1.0 if self._is_first else 5.0)
        self._is_first = False
        return True

    def print(self) -> None:
        """Wait for the end, with one line that can be updated, then print the table."""
        self.run.wait(check=False)
        super().print()

    def html(self) -> str:
        """Return bar, grid and table."""
        return run_picture.run_html(self.run) + self._said()

    def text(self) -> str:
        """Return the table."""
        return "\n".join([run_picture.run_text(self.run), *self._words()])

    def _words(self) -> list[str]:
        """Say how long it takes, and what it costs."""
        return list(filter(None, [run_picture.since_text(self.run), self._cost]))

    def _said(self) -> str:
        words = html.escape(" · ".join(self._words()))
        return f'<div style="color:{display.MUTED}">{words}</div>' if words else ""

    def close(self) -> None:
        """Stop updating, its parts too; what was shown stays."""
        parts, self._parts = self._parts, {}
        for part in parts.values():
            part.close()
        super().close()

    # ---- the widgets ---------------------------------------------------------------------------

    def build(self) -> ipywidgets.Widget:
        """Make the widgets: what is seen at once, and parts that are made when they are opened."""
        import ipywidgets

        from nexa_sdk.notebook.widgets.question import Question
        from nexa_sdk.notebook.widgets.sections import Sections

        auto = {"width": "auto"}
        self._summary = ipywidgets.HTML()
        self._retry = ipywidgets.Button(description="Retry failed", icon="repeat", layout=auto)
        self._cancel = ipywidgets.Button(description="Cancel", icon="stop", layout=auto)
        self._refresh = ipywidgets.Button(description="Refresh", icon="refresh", tooltip="Ask the cluster now", layout=auto)
        self._retry.on_click(self.guard(lambda _: self._ask_retry(None)))
        self._cancel.on_click(self.guard(lambda _: self._ask_cancel(None)))
        self._refresh.on_click(self.guard(lambda _: self._ask_anew()))
        self._question = Question(self)
        self._sections = Sections(
            self,
            {
                "Trials": self._build_trials,
                "Table": self._build_table,
                "Results": self._build_results,
                "Cost": self._build_cost,
                "Utilization": self._build_utilization,
            },
        )
        buttons = ipywidgets.HBox([self._retry, self._cancel, self._refresh], layout={"flex_flow": "row wrap"})
        whole = ipywidgets.VBox([self._summary, buttons, self._question, self._sections])
        whole.add_class("nexa-run")
        return whole

    def draw(self) -> None:
        """Show what is known now."""
        states = [attempt.status.state for attempt in self.run.last_known]
        self._draw_summary()
        failed = sum(state.is_failure for state in states)
        self._retry.description = f"Retry {failed} failed" if failed else "Retry failed"
        is_acting = bool(self._working & {"ask retry", "retrying", "cancelling"})
        self._retry.disabled = not failed or is_acting
        self._cancel.disabled = self.run.is_finished or is_acting
        if self._grid is not None:
            self._grid.update(states)
        else:
            self._plain_grid.value = run_picture.grid(self.run)
        self._trial.draw()
        if is_acting:
            self._trial.retry.disabled = self._trial.cancel.disabled = True
        now = self.clock.now()
        if self.run.plan.get("rates") and (self.run.is_finished or now - self._costed_at > COSTED_EVERY):
            self._costed_at = now
            self.newest("cost", self.run.cost, self._put_cost)

    def _put_cost(self, report: Any) -> None:
        known = report.totals
        self._cost = ", ".join(f"{amount:,.2f} {currency}" for currency, amount in known.items()) + " so far" if known else ""
        if self.run.is_finished and known:
            self._cost = "cost " + self._cost.removesuffix(" so far")
        self._draw_summary()
        if self.run.is_finished and self._output.is_shown:
            self._save()

    def _draw_summary(self) -> None:
        self._summary.value = f'<div style="line-height:1.5">{self.run._repr_html_()}{run_picture.bar(self.run)}{self._said()}</div>'

    # ---- trials --------------------------------------------------------------------------------

    def _build_trials(self) -> ipywidgets.Widget:
        import ipywidgets

        from nexa_sdk.notebook.widgets.trial import TrialWidget

        self._grid: Any = None
        self._plain_grid: Any = None
        if front_end.widgets() == "all":
            from nexa_sdk.notebook.widgets.task_grid import TaskGrid

            self._grid = TaskGrid(self.guard(self._choose))
        else:
            self._plain_grid = ipywidgets.HTML()
        self._number = ipywidgets.BoundedIntText(
            value=0, min=0, max=max(0, self.run.trial_count - 1), description="Trial", layout={"width": "11em"}
        )
        self._number.observe(self.guard(lambda change: self._choose(change["new"])), "value")
        show = ipywidgets.Button(description="Show log", layout={"width": "auto"})
        show.on_click(self.guard(lambda _: self._choose(self._number.value)))
        self._trial = TrialWidget(
            self, self.run, retry=lambda trial: self._ask_retry([trial]), cancel=lambda trial: self._ask_cancel([trial])
        )
        self._is_choosing = False
        pick = ipywidgets.HBox([self._number, show], layout={"flex_flow": "row wrap"})
        return ipywidgets.VBox([self._grid or self._plain_grid, pick, self._trial])

    def _choose(self, trial: int) -> None:
        """Show a trial: its parameters, how it is, and its log."""
        if not 0 <= trial < self.run.trial_count or self._is_choosing:
            return
        self._is_choosing = True  # the others that show the choice say so, too
        try:
            self._number.value = trial
            if self._grid is not None:
                self._grid.chosen = trial
        finally:
            self._is_choosing = False
        self._trial.choose(trial)

    # ---- doing ---------------------------------------------------------------------------------

    def _ask_retry(self, trials: Sequence[int] | None) -> None:
        def ask(table: pd.DataFrame) -> None:
            is_by_cause = bool(table["again"].any())
            count = int(table["again"].sum()) if is_by_cause else len(table)
            rows = [[trial, row["cause"], "yes" if row["again"] else "no", row["change"]] for trial, row in table.head(10).iterrows()]
            more = f"… and {len(table) - 10:,} more" if len(table) > 10 else ""
            title = (
                "What will be run again, and with what"
                if is_by_cause
                else "By their causes none is run again; it can be, as it was planned"
            )
            self._question.ask(
                display.titled_table(title, ["trial", "cause", "again", "change"], rows, more=more),
                f"Retry {_trials(count)}" if is_by_cause else f"Retry {count:,} as planned",
                lambda: self.run.retry(trials, by="cause" if is_by_cause else None),
                self._acted,
                doing="retrying",
                off=self._acting,
            )
            self.draw()  # what can be done may have changed meanwhile

        self.work("ask retry", lambda: self.run.retry_plan(trials, by="cause"), ask, words="looking at what failed", off=self._acting)

    def _ask_cancel(self, trials: Sequence[int] | None) -> None:
        going = [attempt.trial for attempt in self.run.last_known if not attempt.status.state.is_terminal]
        count = len(going) if trials is None else len(trials)
        self._question.ask(
            f"<div>{_trials(count)} {'have' if count != 1 else 'has'} not ended.</div>",
            f"Cancel {_trials(count)}",
            lambda: self.run.cancel(trials),
            self._acted,
            doing="cancelling",
            off=self._acting,
        )

    @property
    def _acting(self) -> list[Any]:
        """What can't be used while something is done to the run."""
        return [self._retry, self._cancel, self._trial.retry, self._trial.cancel]

    def _ask_anew(self) -> None:
        self.work("refresh", self.run.refresh, self._renew, words="asking", off=[self._refresh])

    def _acted(self, _: Any) -> None:
        """Take up what was done: ask anew, and listen again."""
        for button in self._acting:
            button.disabled = True  # until it is known how the trials are now
        self.newest("look", self.run.refresh, self._renew)

    def _renew(self, _: Any) -> None:
        self.status.clear_stale()
        self.draw()
        self.follow()
        if self._output.is_shown:
            self._save()

    # ---- what is made when it is opened --------------------------------------------------------

    def _build_table(self) -> ipywidgets.Widget:
        from nexa_sdk.notebook.widgets.table import table_widget

        frame = self.run.status()
        for name in reversed(self.run.sweep.parameters):
            frame.insert(0, name if name not in frame.columns else f"{name} ", [self.run.sweep[trial][name] for trial in frame.index])
        return self._renewable("Table", table_widget(frame))

    def _build_results(self) -> ipywidgets.Widget:
        from nexa_sdk.notebook.widgets.results import results_widget

        return self._renewable("Results", results_widget(self, self.run))

    def _build_cost(self) -> ipywidgets.Widget:
        import ipywidgets

        report = self.run.cost()
        by_trial = report.by("trial") if report.lines else None
        table = f"<div>{by_trial.to_html(na_rep='', border=0)}</div>" if by_trial is not None else ""
        return self._renewable("Cost", ipywidgets.HTML(f"{report._repr_html_()}{table}"))

    def _build_utilization(self) -> ipywidgets.Widget:
        from nexa_sdk.notebook.views.utilization import OfRun, UtilizationView

        if not self.run.watched.is_known:
            import ipywidgets

            return ipywidgets.HTML(
                "<div>Nobody watches this run's nodes. Launch with telemetry=True (--telemetry), and it is drawn here.</div>"
            )
        view = self._parts["Utilization"] = UtilizationView(OfRun(self.run), clock=self.clock)
        return view.embed()

    def _renewable(self, name: str, widget: Any) -> ipywidgets.Widget:
        """Put a button under a part that makes it anew."""
        import ipywidgets

        renew = ipywidgets.Button(description=f"Renew {name.lower()}", icon="refresh", layout={"width": "auto"})

        renew.on_click(self.guard(lambda _: self._sections.renew(name)))
        return ipywidgets.VBox([widget, renew])


def _trials(count: int) -> str:
    return f"{count:,} trial{'s' if count != 1 else ''}"
