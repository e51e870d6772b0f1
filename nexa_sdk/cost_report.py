"""CostReport: what was used and what it cost, as a table, by whatever one asks for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nexa_sdk.cost_line import API, CostLine
from nexa_sdk.errors import InvalidInput, nearest
from nexa_sdk.rates import money
from nexa_sdk.token_price import added

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.estimate import Estimate

__all__ = ["GROUPS", "CostReport", "exchange"]

GROUPS = ("run", "trial", "user", "account", "gpu_type", "day", "cluster", "partition", "state", "kind", "provider", "model", "tag")
MOST_SHOWN = 20  # lines of a table


@dataclass(frozen=True)
class CostReport:
    """What was used, and what it cost. A value.

    Get one from ``run.cost()``, ``cluster.cost(since=…)`` or :meth:`between`; ``plan.cost()``
    returns an :class:`nexa_sdk.estimate.Estimate`, which is one that looks ahead.

    Attributes
    ----------
    lines : sequence of CostLine
        What it is made of: a line for each attempt, or for each run and day.
    title : str
    notes : sequence of str
        What could not be known, and why.
    estimate : Estimate or None
        What the plan said before.
    idle_gpu_hours : Decimal or None
        Of these GPU-hours those in which GPUs did nothing; None where nobody watched. See
        :mod:`nexa_sdk.monitoring.verdicts`.
    """

    lines: Sequence[CostLine] = field(default=(), repr=False)
    title: str = "Cost"
    notes: tuple[str, ...] = ()
    estimate: Estimate | None = None
    idle_gpu_hours: Decimal | None = None

    @classmethod
    def between(cls, first: object, last: object = None, *, attempts: bool = False) -> CostReport:
        """Return what was used between two times, as the ledger has it; no cluster is asked.

        Parameters
        ----------
        first, last : str, date, datetime or timedelta
            ``"2026-11-01"``, in UTC; a timedelta or ``"7 days"`` is so long ago. `last` is not
            included, and is now unless given.
        attempts : bool
            A line for each attempt, rather than one for all that share run, day, user, account, GPU
            type and state.

        Raises
        ------
        InvalidInput
        JournalError
            The ledger can't be read.
        """
        from nexa_sdk.monitoring.ledger import Ledger

        return Ledger().between(first, last, attempts=attempts)

    # ---- sums ----------------------------------------------------------------------------------

    @cached_property
    def totals(self) -> dict[str, Decimal]:
        """What is known to be paid, by currency. Currencies are never added up."""
        sums: dict[str, int] = {}
        for line in self.lines:
            if line.price is not None:
                sums[line.price.currency] = sums.get(line.price.currency, 0) + (line.nanos or 0)
        return {currency: money(nanos) for currency, nanos in sorted(sums.items())}

    @property
    def total(self) -> Decimal | None:
        """What it costs; None where no price is known of a part of it, or where there are several currencies."""
        if self.unknown or len(self.totals) > 1:
            return None
        return next(iter(self.totals.values()), Decimal(0) if self.lines else None)

    @property
    def currency(self) -> str | None:
        """The currency of `total`; None where there is none, or several."""
        return next(iter(self.totals)) if len(self.totals) == 1 else None

    @property
    def gpu_hours(self) -> Decimal | None:
        """GPU-hours; `gpu_seconds` has them without a rounding."""
        return Decimal(sum(line.gpu_ms for line in self.lines)) / 3_600_000

    @property
    def gpu_seconds(self) -> Decimal | None:
        """Seconds × GPUs."""
        return Decimal(sum(line.gpu_ms for line in self.lines)).scaleb(-3)

    @property
    def idle_cost(self) -> Decimal | None:
        """What idle GPUs cost: their share of the whole; None where nobody watched, or no price is known."""
        of_gpus = self._part([line for line in self.lines if line.gpu_ms], "of GPUs")
        if self.idle_gpu_hours is None or of_gpus.total is None or not self.gpu_hours:
            return None
        share = min(self.idle_gpu_hours / self.gpu_hours, Decimal(1))
        return (of_gpus.total * share).quantize(Decimal("0.01"))

    @property
    def cpu_hours(self) -> Decimal | None:
        """Core-hours."""
        return Decimal(sum(line.cpu_ms for line in self.lines)) / 3_600_000

    @property
    def attempts(self) -> int:
        """How many attempts it counts."""
        return sum(line.attempts for line in self.lines if line.kind != API)

    @property
    def calls(self) -> int:
        """How many calls of LLM APIs it counts."""
        return sum(line.attempts for line in self.lines if line.kind == API)

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of calls, by kind: ``{"input_tokens": …, "output_tokens": …}``; cached ones are part of the input's."""
        sums: dict[str, int | Decimal] = {}
        for line in self.lines:
            added(sums, line.used)
        return {name: int(amount) for name, amount in sorted(sums.items()) if name.endswith("_tokens")}

    @property
    def unknown(self) -> CostReport:
        """What of it has no price; it is empty, and false, where all has."""
        return self._part([line for line in self.lines if line.nanos is None], "of it without a known price")

    @property
    def failed(self) -> CostReport:
        """What attempts took that did not complete, those that were requeued or preempted too."""
        return self._part([line for line in self.lines if line.is_failure], "of attempts that did not complete")

    def _part(self, lines: Sequence[CostLine], which: str) -> CostReport:
        return CostReport(lines, title=f"{self.title}, {which}")

    def __bool__(self) -> bool:
        return bool(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    # ---- other views of it ---------------------------------------------------------------------

    def where(self, **is_equal: str) -> CostReport:
        """Return a part of it: ``report.where(user="ada", state="FAILED")``."""
        for name in is_equal:
            self._check_group(name)
        lines = [line for line in self._lines_for(is_equal) if all(_key(line, name) == value for name, value in is_equal.items())]
        return self._part(lines, ", ".join(f"{name} {value}" for name, value in is_equal.items()))

    def within(self, first: int, last: int) -> CostReport:
        """Return the part of it from one time to another, in milliseconds since the epoch."""
        return replace(self, lines=[part for line in self.lines if (part := line.within(first, last)) is not None])

    def in_currency(self, currency: str, rates: Mapping[str, object]) -> CostReport:
        """Return it in one currency.

        Parameters
        ----------
        currency : str
        rates : mapping of str to Decimal, int or str
            What one unit of each other currency is worth in this one: ``{"EUR": "1.08"}``.

        Raises
        ------
        InvalidInput
            For a currency without a rate.
        """
        worth = exchange(currency, rates, self.totals)
        ahead = self.estimate
        if ahead is not None and ahead.currency in worth:
            ahead = ahead.in_currency(currency, rates)
        return replace(self, lines=[_converted(line, currency, worth) for line in self.lines], estimate=ahead)

    def by(self, *names: str) -> pd.DataFrame:
        """Add it up by one or more of run, trial, user, account, gpu_type, day, cluster, partition, state, kind, provider, model, tag.

        Returns
        -------
        pandas.DataFrame
            Indexed by these: `attempts`, `gpu_hours`, `cpu_hours`, `cost` (Decimal; None where no
            price is known) and `currency`; with calls of LLM APIs, `calls`, `input_tokens` and
            `output_tokens` too. The rows add up to the whole.

        Raises
        ------
        InvalidInput
            For another word; for trials where the lines are of whole runs.
        """
        import pandas as pd

        for name in names:
            self._check_group(name)
        if not names:
            raise InvalidInput(f"by what? {', '.join(GROUPS)}")
        sums: dict[tuple[Any, ...], list[int]] = {}
        for line in self._lines_for(names):
            key = (*(_key(line, name) for name in names), line.currency if line.nanos is not None else None)
            found = sums.setdefault(key, [0] * 7)
            for k, amount in enumerate(_amounts(line)):
                found[k] += amount
        rows = sorted(sums.items(), key=lambda row: [str(part) for part in row[0]])
        columns = {
            "attempts": [found[0] for _, found in rows],
            "gpu_hours": [_hours(found[1]) for _, found in rows],
            "cpu_hours": [_hours(found[2]) for _, found in rows],
            "cost": [money(found[3]) if key[-1] else None for key, found in rows],
            "currency": [key[-1] for key, _ in rows],
        }
        counts = {"calls": 4, "input_tokens": 5, "output_tokens": 6} if self.calls else {}
        columns |= {name: [found[k] for _, found in rows] for name, k in counts.items()}
        if len(names) == 1:
            index: pd.Index[Any] = pd.Index([key[0] for key, _ in rows], name=names[0], dtype=object)
        else:
            index = pd.MultiIndex.from_tuples([key[:-1] for key, _ in rows], names=list(names))
        return pd.DataFrame(columns, index=index, dtype=object).astype(dict.fromkeys(["attempts", *counts], int))

    def _check_group(self, name: str) -> None:
        if name not in GROUPS:
            raise InvalidInput(f"a cost has no {name!r}; {nearest(name, GROUPS)}")
        if name == "trial" and any(line.attempts > 1 and line.kind != API for line in self.lines):
            raise InvalidInput("these lines are of whole runs and days; ask for a line for each attempt: attempts=True")

    def _lines_for(self, names: Iterable[str]) -> Iterable[CostLine]:
        return (part for line in self.lines for part in line.by_day()) if "day" in names else self.lines

    def to_frame(self) -> pd.DataFrame:
        """Return it in the columns of FOCUS 1.2 (https://focus.finops.org), our own with the prefix ``x_``.

        A row is a charge: of a line that pays for GPUs and for cores there are two. Amounts are
        Decimals, times are in UTC, and what has no price has the cost None.
        """
        from nexa_sdk.focus import frame

        return frame(self.lines)

    def to_focus_csv(self, path: str | os.PathLike[str], *, leave_out_unknown: bool = False, with_draft_names: bool = False) -> None:
        """Write it as FOCUS's CSV.

        Parameters
        ----------
        leave_out_unknown : bool
            FOCUS knows no charge without a price: leave such out, rather than refuse.
        with_draft_names : bool
            Have some columns also by the names of a draft, which focus-validator 1.0.0 looks for.

        Raises
        ------
        InvalidInput
            Also where the file can't be written.
        """
        from nexa_sdk.focus import write_csv

        if self.unknown and not leave_out_unknown:
            raise InvalidInput(
                f"{self.unknown._counts} have no known price, and FOCUS has no such charge: "
                f"{'add it to the file of rates, or ' if self.unknown.attempts else ''}"
                "leave them out with leave_out_unknown=True (--leave-out-unknown)"
            )
        write_csv([line for line in self.lines if line.nanos is not None], path, with_draft_names=with_draft_names)

    def plot(self, by: str = "day", *, treemap: bool = False) -> Any:
        """Draw it with plotly.

        Parameters
        ----------
        by : str
            A bar for each: ``"day"``, ``"run"``, or another that :meth:`by` knows. Where no price
            is known, GPU-hours are drawn.
        treemap : bool
            Draw areas instead: clusters, in them users, in them `by`.

        Returns
        -------
        plotly.graph_objects.Figure
        """
        from nexa_sdk.cost_figures import bars, tree

        self._check_group(by)
        return tree(self, by) if treemap else bars(self, by)

    # ---- how it shows itself -------------------------------------------------------------------

    @property
    def money_text(self) -> str:
        """What it costs, in words."""
        known = " + ".join(_money_text(int(amount.scaleb(9)), currency) for currency, amount in self.totals.items())
        if not self.unknown:
            return known or "nothing"
        lacking = self.unknown
        amount = f"{lacking.gpu_hours:,.2f} GPU-hours" if lacking.gpu_hours else f"{lacking.cpu_hours:,.2f} CPU-hours"
        amounts = [*([amount] if lacking.attempts else []), *([_count(lacking.calls, "API call")] if lacking.calls else [])]
        return f"{known}, and {' and '.join(amounts)} without a known price" if known else "price unknown"

    @property
    def summary(self) -> list[str]:
        """What is to be said of it besides its table, a line for each."""
        said = [str(self)]
        if self.failed:
            said.append(f"attempts that did not complete: {self.failed}")
        if self.idle_gpu_hours:
            cost = f", {self.idle_cost:,.2f} {self.currency or ''} of it" if self.idle_cost is not None else ""
            said.append(f"GPUs did nothing for {self.idle_gpu_hours:,.2f} GPU-hours{cost}: run.verdicts() says which")
        if self.estimate is not None:
            said.append(f"the plan said: {self.estimate}")
        reasons = Counter({why: 0 for line in self.lines if (why := line.why)})
        for line in self.lines:
            reasons[line.why] += line.attempts if line.why else 0
        said += [f"{_count(count, 'API call')} without a known price: {why}" for why, count in reasons.most_common() if why]
        return [*said, *self.notes]

    @property
    def _counts(self) -> str:
        return " and ".join(f"{count:,} {what}" for count, what in ((self.attempts, "attempts"), (self.calls, "API calls")) if count)

    def __str__(self) -> str:
        said = []
        if self.attempts or not self.calls:
            gpus = f"{self.gpu_hours:,.2f} GPU-hours, " if self.gpu_hours else ""
            said.append(f"{_count(self.attempts, 'attempt')}, {gpus}{self.cpu_hours:,.2f} CPU-hours")
        if self.calls:
            tokens = self.tokens
            inside, out = tokens.get("input_tokens", 0), tokens.get("output_tokens", 0)
            said.append(f"{_count(self.calls, 'API call')}, {inside:,} tokens in, {out:,} out")
        return f"{', '.join(said)}, {self.money_text}"

    def __repr__(self) -> str:
        return f"<CostReport {self.title}: {'; '.join(self.summary)}>"

    def _repr_html_(self) -> str:
        from nexa_sdk import display

        columns, rows = self.shown()
        table = display.titled_table(self.title, columns, rows[:MOST_SHOWN], more="; ".join(self.summary))
        rest = f"<div>… and {len(rows) - MOST_SHOWN:,} more lines: .by(…) and .to_frame() have them</div>" if len(rows) > MOST_SHOWN else ""
        return f"<div>{table}{rest}</div>"

    def shown(self) -> tuple[list[str], list[list[Any]]]:
        """Return a small table: of one run its states, of several the runs, the dearest first. It needs no pandas."""
        if self.calls and not self.attempts:
            return self._shown_calls()
        is_one = len({line.run for line in self.lines}) <= 1
        sums: dict[tuple[str, str, str], list[int]] = {}
        for line in self.lines:
            name = "API calls" if line.kind == API else line.state
            key = (name if is_one else line.run or "(no run)", line.gpu_type, (line.currency or "") if line.nanos is not None else "")
            found = sums.setdefault(key, [0] * 7)
            for k, amount in enumerate(_amounts(line)):
                found[k] += amount
        rows = [
            [
                name,
                f"{count or calls:,}",
                gpu_type,
                f"{Decimal(gpu_ms) / 3_600_000:,.2f}",
                f"{Decimal(cpu_ms) / 3_600_000:,.2f}",
                _money_text(nanos, currency),
            ]
            for (name, gpu_type, currency), (count, gpu_ms, cpu_ms, nanos, calls, *_) in sorted(
                sums.items(), key=lambda row: (-row[1][3], -row[1][1], row[0])
            )
        ]
        return ["state" if is_one else "run", "attempts", "GPU type", "GPU-hours", "CPU-hours", "cost"], rows

    def _shown_calls(self) -> tuple[list[str], list[list[Any]]]:
        """Return a small table of calls alone: their models, the dearest first."""
        sums: dict[tuple[str, str, str], list[int]] = {}
        for line in self.lines:
            found = sums.setdefault((line.provider, line.model, line.currency or ""), [0] * 7)
            for k, amount in enumerate(_amounts(line)):
                found[k] += amount
        rows = [
            [*key[:2], f"{found[4]:,}", f"{found[5]:,}", f"{found[6]:,}", _money_text(found[3], key[2])]
            for key, found in sorted(sums.items(), key=lambda row: (-row[1][3], -row[1][4], row[0]))
        ]
        return ["provider", "model", "calls", "tokens in", "tokens out", "cost"], rows


def _amounts(line: CostLine) -> tuple[int, ...]:
    """Return what is added up: attempts, GPUs, cores, money, calls, tokens in and out."""
    if line.kind != API:
        return line.attempts, line.gpu_ms, line.cpu_ms, line.nanos or 0, 0, 0, 0
    used = line.used
    return 0, 0, 0, line.nanos or 0, line.attempts, int(used.get("input_tokens", 0)), int(used.get("output_tokens", 0))


def _money_text(nanos: int, currency: str) -> str:
    """Write money; of less than a cent, what there is of it."""
    if not currency:
        return "unknown"
    amount = money(nanos)
    return f"{amount:,.2f} {currency}" if not amount or amount >= Decimal("0.01") else f"{amount.normalize():f} {currency}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _key(line: CostLine, name: str) -> Any:
    return line.day.isoformat() if name == "day" else getattr(line, name)


def _hours(milliseconds: int) -> Decimal:
    """Return hours, to some microseconds: that many digits can be read."""
    return (Decimal(milliseconds) / 3_600_000).quantize(Decimal("1e-9")).normalize() + 0


def exchange(currency: str, rates: Mapping[str, object], needed: Iterable[str]) -> dict[str, Decimal]:
    """Say what one unit of each currency is worth in another.

    Raises
    ------
    InvalidInput
        For one that is needed and has no rate, and for a rate that is none.
    """
    worth = {name: _rate(name, rate) for name, rate in rates.items()} | {currency: Decimal(1)}
    missing = [name for name in needed if name not in worth]
    if missing:
        raise InvalidInput(f"there is no rate for {', '.join(missing)}; give one: in_currency({currency!r}, {{{missing[0]!r}: '…'}})")
    return worth


def _rate(name: str, rate: object) -> Decimal:
    if isinstance(rate, bool) or not isinstance(rate, (Decimal, int, str)):
        raise InvalidInput(f"the rate of {name} is a Decimal, an int or text, not {rate!r}")
    try:
        worth = Decimal(rate)
    except ArithmeticError:
        raise InvalidInput(f"the rate of {name} is a number, not {rate!r}") from None
    if not worth.is_finite() or worth <= 0:
        raise InvalidInput(f"the rate of {name} is above 0, not {rate!r}")
    return worth


def _converted(line: CostLine, currency: str, worth: Mapping[str, Decimal]) -> CostLine:
    if line.price is None or line.nanos is None or line.price.currency == currency:
        return line
    rate = worth[line.price.currency]
    numerator, denominator = rate.as_integer_ratio()
    nanos = (2 * line.nanos * numerator + denominator) // (2 * denominator)
    return line._replace(nanos=nanos, price=line.price.converted(currency, rate))
