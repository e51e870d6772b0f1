"""Costs in the columns of FOCUS 1.2, the FinOps Open Cost and Usage Specification (https://focus.finops.org/focus-specification/v1-2/).

A charge is one rate times one amount: an attempt that pays for GPUs and for cores is two, a call of an LLM API
that pays for tokens in and out as well. What is ours
alone has the prefix ``x_``, as the specification asks. Nothing is discounted or committed here, so
that the four costs of a charge are the same.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nexa_sdk.cost_line import API
from nexa_sdk.errors import FileError
from nexa_sdk.focus_calls import adding_up, call_rows
from nexa_sdk.rates import METERS, money

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.cost_line import CostLine
    from nexa_sdk.estimate import Estimate, Takes

__all__ = ["COLUMNS", "estimate_frame", "frame", "rows", "write_csv"]

# Those that the specification demands of every data set, those it demands where they apply, and our own.
COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost",
    "InvoiceId", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingQuantity",
    "PricingUnit", "ProviderName", "PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType",
    "AvailabilityZone", "CapacityReservationId", "CapacityReservationStatus", "CommitmentDiscountCategory", "CommitmentDiscountId",
    "CommitmentDiscountName", "CommitmentDiscountQuantity", "CommitmentDiscountStatus", "CommitmentDiscountType",
    "CommitmentDiscountUnit", "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails",
    "SkuPriceId", "SubAccountId", "SubAccountName", "SubAccountType", "Tags",
    "x_Attempts", "x_Calls", "x_Cluster", "x_GpuType", "x_Kind", "x_Model", "x_Partition", "x_PriceReadAt", "x_PriceSource", "x_Run",
    "x_State", "x_Tag", "x_Trial", "x_User",
)  # fmt: skip

_UNITS = {"gpu": "GPU-Hours", "cpu": "CPU-Hours", "node": "Node-Hours"}
_PLACES = Decimal("1e-9")


def rows(lines: Iterable[CostLine]) -> Iterator[dict[str, Any]]:
    """Return the charges of lines: a row for each rate that a line pays, and for each month that it is billed in."""
    for whole in lines:
        for line in _by_month(whole):
            yield from _rows(line)


def _by_month(line: CostLine) -> Iterator[CostLine]:
    """Cut a line at the ends of months, in UTC: a charge is of one billing period."""
    while (after := int(_month(_time(line.start))[1].timestamp()) * 1000) < line.end:
        if (part := line.within(line.start, after)) is not None:
            yield part
        rest = line.within(after, line.end)
        assert rest is not None
        line = rest
    yield line


def _rows(line: CostLine) -> Iterator[dict[str, Any]]:
    if line.kind == API:
        yield from (dict.fromkeys(COLUMNS) | _common(line) | row for row in call_rows(line))
        return
    amounts = {"gpu": line.gpu_ms, "cpu": line.cpu_ms, "node": line.node_ms}
    if line.price is None or line.nanos is None:
        meter = "gpu" if line.gpu_ms else "cpu"
        yield _row(line, meter, amounts[meter], None, None, counts=True)
        return
    paid = [meter for meter in METERS if line.price.of(meter) is not None and amounts[meter]]
    if not paid:
        meter = "gpu" if line.price.gpu_hour is not None else "cpu"
        yield _row(line, meter, amounts[meter], line.price.of(meter), line.nanos, counts=True)
        return
    parts = [line.price.nanos(**{f"{name}_ms": amounts[name] if name == meter else 0 for name in METERS}) for meter in paid]
    for meter, nanos in zip(paid, adding_up(parts, line.nanos), strict=True):
        yield _row(line, meter, amounts[meter], line.price.of(meter), nanos, counts=meter == paid[0])


def _row(line: CostLine, meter: str, amount: int, rate: Decimal | None, nanos: int | None, *, counts: bool) -> dict[str, Any]:
    hours = (Decimal(amount) / 3_600_000).quantize(_PLACES)
    cost = money(nanos) if nanos is not None else None
    unit = _UNITS[meter]
    what = f"{line.gpu_type or 'GPU'}" if meter == "gpu" else {"cpu": "core", "node": "node"}[meter]
    sku = "/".join(part for part in (line.cluster, line.partition, line.gpu_type if meter == "gpu" else "", meter) if part)
    return (
        dict.fromkeys(COLUMNS)
        | _common(line)
        | {
            "BilledCost": cost,
            "BillingAccountId": line.cluster,
            "BillingAccountName": line.cluster,
            "BillingAccountType": "Cluster",
            "ChargeDescription": f"{what} of {line.run or line.job or line.cluster}{f', trial {line.trial}' if line.trial else ''}",
            "ConsumedQuantity": hours,
            "ConsumedUnit": unit,
            "ContractedCost": cost,
            "ContractedUnitPrice": rate,
            "EffectiveCost": cost,
            "InvoiceIssuerName": line.cluster,
            "ListCost": cost,
            "ListUnitPrice": rate,
            "PricingCategory": "Standard" if rate is not None else None,
            "PricingQuantity": hours,
            "PricingUnit": unit,
            "ProviderName": line.cluster,
            "PublisherName": line.cluster,
            "ResourceId": line.job or line.run or None,
            "ResourceName": line.run or line.job or None,
            "ResourceType": "Job",
            "ServiceCategory": "Compute",
            "ServiceName": "Slurm" if line.cluster != "local" else "Local machine",
            "ServiceSubcategory": "Other (Compute)",
            "SkuId": sku,
            "SkuMeter": unit.replace("-", " "),
            "SkuPriceId": sku if rate is not None else None,
            "SubAccountId": line.account or None,
            "SubAccountName": line.account or None,
            "SubAccountType": "Slurm account" if line.account else None,
            "x_Attempts": line.attempts if counts else 0,
            "x_Calls": 0,
            "x_Cluster": line.cluster,
            "x_GpuType": line.gpu_type or None,
            "x_Partition": line.partition or None,
        }
    )


def _common(line: CostLine) -> dict[str, Any]:
    """Return what a charge of any kind has: when it was, whose it is, and who knows the price."""
    start, end = _time(line.start), _time(line.end)
    month, after = _month(start)
    price = line.price
    return {
        "BillingCurrency": line.currency,
        "BillingPeriodStart": month,
        "BillingPeriodEnd": after,
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": start,
        "ChargePeriodEnd": max(end, min(start + timedelta(seconds=1), after)),  # the end is not included
        "PricingCurrency": line.currency,
        "Tags": json.dumps({name: value for name in ("run", "trial", "user", "tag") if (value := getattr(line, name))}),
        "x_Kind": line.kind,
        "x_PriceReadAt": _time(int(price.read_at * 1000)) if price is not None else None,
        "x_PriceSource": price.source if price is not None else None,
        "x_Run": line.run or None,
        "x_State": line.state,
        "x_Trial": line.trial or None,
        "x_User": line.user or None,
    }


def frame(lines: Sequence[CostLine]) -> pd.DataFrame:
    """Return the charges of lines as a DataFrame."""
    import pandas as pd

    found = list(rows(lines))
    table = pd.DataFrame({name: pd.Series([row[name] for row in found], dtype=object) for name in COLUMNS})
    for name in COLUMNS:
        if name.endswith(("Start", "End", "ReadAt")):
            table[name] = pd.to_datetime(table[name], utc=True)
    return table


# Names of a draft of FOCUS 1.0, which PyPI's focus-validator 1.0.0 looks for, and what they are called since.
_DRAFT_NAMES = {
    "ChargeType": "ChargeCategory",
    "InvoiceIssuer": "InvoiceIssuerName",
    "Provider": "ProviderName",
    "Publisher": "PublisherName",
    "ResourceID": "ResourceId",
}


def write_csv(lines: Iterable[CostLine], path: str | os.PathLike[str], *, with_draft_names: bool = False) -> None:
    """Write the charges of lines as FOCUS's CSV: times in UTC, numbers without exponents, nothing for null.

    It is written beside `path` and renamed: a file of that name is whole, or the old one.

    Raises
    ------
    FileError
        It can't be written.
    """
    part = f"{os.fspath(path)}.part"
    try:
        with open(part, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            also = _DRAFT_NAMES if with_draft_names else {}
            table.writerow([*COLUMNS, *also])
            for row in rows(lines):
                table.writerow([_text(row[name]) for name in (*COLUMNS, *also.values())])
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise FileError(f"it can't be written: {error.strerror}", path=path) from None


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _month(moment: datetime) -> tuple[datetime, datetime]:
    """Return the beginning of the month of a time, and that of the next."""
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return first, (first + timedelta(days=32)).replace(day=1)


def _time(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def estimate_frame(estimate: Estimate) -> pd.DataFrame:
    """Return an estimate as a DataFrame, a row for each case, in the columns of FOCUS that fit what has not happened yet."""
    import pandas as pd

    cases: list[tuple[str, Takes | None]] = list(estimate.cases)
    if estimate.at_most is None:
        cases.insert(0, ("at most", None))
    price = estimate.price
    found = [
        {
            "x_Case": name,
            "x_Trials": estimate.trials,
            "x_GpuType": estimate.gpu_type,
            "x_GpuHours": takes.gpu_hours if takes is not None else estimate.gpu_hours,
            "x_CpuHours": takes.cpu_hours if takes is not None else None,
            "x_NodeHours": takes.node_hours if takes is not None else None,
            "ChargeCategory": "Usage",
            "ServiceCategory": "Compute",
            "ConsumedQuantity": None if takes is None else takes.gpu_hours if estimate.has_gpus else takes.cpu_hours,
            "ConsumedUnit": _UNITS["gpu" if estimate.has_gpus else "cpu"],
            "ListUnitPrice": None if price is None else price.gpu_hour if estimate.has_gpus else price.cpu_hour,
            "ListCost": takes.total if takes is not None else None,
            "BillingCurrency": estimate.currency,
            "x_PriceSource": price.source if price is not None else None,
            "x_PriceReadAt": _time(int(price.read_at * 1000)) if price is not None else None,
        }
        for name, takes in cases
    ]
    return pd.DataFrame(found, dtype=object).astype({"x_Trials": int})
