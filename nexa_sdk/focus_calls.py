"""Calls of LLM APIs in the columns of FOCUS 1.2: a charge for each meter, of tokens in, from a cache, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nexa_sdk.rates import money
from nexa_sdk.token_price import Meter, TokenPrice

if TYPE_CHECKING:
    from nexa_sdk.cost_line import CostLine

__all__ = ["adding_up", "call_rows"]


def call_rows(line: CostLine) -> Iterator[dict[str, Any]]:
    """Return the charges of calls; one alone where they have no price."""
    price = line.price
    if not isinstance(price, TokenPrice) or line.nanos is None:
        told = [line.used[name] for name in ("input_tokens", "output_tokens") if name in line.used]
        yield _row(line, Meter("tokens", 10**6, Decimal(0)), sum(told) if told else None, None, is_first=True)
        return
    parts = list(price.parts(line.billed)) or [(meter, 0, 0) for meter in price.meters[:1]]
    costs = adding_up([nanos for _, _, nanos in parts], line.nanos)
    for k, ((meter, amount, _), nanos) in enumerate(zip(parts, costs, strict=True)):
        yield _row(line, meter, amount, nanos, is_first=k == 0)


def adding_up(parts: Sequence[int], whole: int) -> list[int]:
    """Return parts that add up to the whole: what was rounded away is the largest one's. So none is negative, and what is free stays so."""
    found = list(parts)
    found[found.index(max(found))] += whole - sum(found)
    return found


def _row(line: CostLine, meter: Meter, amount: int | Decimal | None, nanos: int | None, *, is_first: bool) -> dict[str, Any]:
    cost, rate = (money(nanos), meter.rate) if nanos is not None else (None, None)
    words = meter.name.replace("_", " ")
    unit = "Tokens" if meter.name.endswith("tokens") else words.title()
    priced = f"{meter.per} {unit}" if meter.per > 1 else unit
    quantity = Decimal(amount) / meter.per if amount is not None else None
    sku = f"{line.provider}/{line.model}/{meter.name}"
    return {
        "BilledCost": cost,
        "BillingAccountId": line.provider,
        "BillingAccountName": line.provider,
        "BillingAccountType": "LLM API",
        "ChargeDescription": f"{words} of {line.model}{f', {line.tag}' if line.tag else ''}",
        "ConsumedQuantity": Decimal(amount) if amount is not None else None,
        "ConsumedUnit": unit,
        "ContractedCost": cost,
        "ContractedUnitPrice": rate,
        "EffectiveCost": cost,
        "InvoiceIssuerName": line.provider,
        "ListCost": cost,
        "ListUnitPrice": rate,
        "PricingCategory": "Standard" if rate is not None else None,
        "PricingQuantity": quantity,
        "PricingUnit": priced,
        "ProviderName": line.provider,
        "PublisherName": line.provider,
        "ResourceId": line.model,
        "ResourceName": line.model,
        "ResourceType": "Model",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{line.provider} API",
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku,
        "SkuMeter": words.title(),
        "SkuPriceId": sku if rate is not None else None,
        "x_Attempts": 0,
        "x_Calls": line.attempts if is_first else 0,
        "x_Model": line.model,
        "x_Tag": line.tag or None,
    }
