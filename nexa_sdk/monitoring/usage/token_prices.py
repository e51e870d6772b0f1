"""What calls of LLM APIs cost, by genai-prices: it ships its prices, and asks nobody. None is ever made up.

https://github.com/pydantic/genai-prices. A model that it does not know, a tier that it has no price of, and
a tool that it does not price make the cost unknown. So does a provider that nobody names: a model of the
same name on a machine of your own costs something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

from nexa_sdk.errors import InvalidInput, nearest
from nexa_sdk.monitoring.usage.answers import TOOLS
from nexa_sdk.token_price import Amounts, Meter, TokenPrice

__all__ = ["MOST", "Charged", "charge", "check_installed", "check_provider", "is_counted", "provider_at", "tokens_of"]

# How bodies are told apart: whose they are, and genai-prices' words for them, the nearest first.
_SHAPES = {
    "chat": ("openai", "chat", "default"),
    "embeddings": ("openai", "embeddings", "default"),
    "responses": ("openai", "responses", "default"),
    "messages": ("anthropic", "anthropic", "default"),
    "gemini": ("google", "default"),
}
MOST = 10**11  # tokens of a call: more is a mistake
_PLAIN = (None, "", "default", "standard", "auto", "on_demand")


class Charged(NamedTuple):
    """What a call is charged for.

    Attributes
    ----------
    billed : mapping of str to int or Decimal
    price : TokenPrice or None
    why : str
        Why no price is known.
    """

    billed: Amounts
    price: TokenPrice | None
    why: str


def check_installed() -> None:
    """Refuse to go on without genai-prices, and load it.

    That takes some tenths of a second, once, and would otherwise fall into the first call.

    Raises
    ------
    InvalidInput
    """
    try:
        import genai_prices  # noqa: F401
    except ImportError:
        raise InvalidInput("the 'genai-prices' package is not installed; install it by: pip install 'nexa_sdk[usage]'") from None
    _snapshot(), _units()


def check_provider(name: str) -> str:
    """Return a provider's id as genai-prices has it.

    Raises
    ------
    InvalidInput
        It knows none of that name.
    """
    snapshot = _snapshot()
    try:
        return str(snapshot.find_provider(None, name, None).id)
    except LookupError:
        known = [provider.id for provider in snapshot.providers if not provider.id.startswith("huggingface")]
        raise InvalidInput(f"genai-prices knows no provider {name!r}; {nearest(name, known)}") from None


def provider_at(host: str, path: str) -> str:
    """Return whose API an address is; empty where genai-prices does not know it."""
    try:
        return str(_snapshot().find_provider(None, None, f"https://{host}{path}").id)
    except LookupError:
        return ""


def is_counted(name: str) -> bool:
    """Whether genai-prices knows something of that name that a call may use: ``"cache_read_tokens"``."""
    return name in _units() and name != "requests"


def tokens_of(body: Mapping[str, Any], provider: str) -> dict[str, int | Decimal]:
    """Read the tokens of a response's body.

    Parameters
    ----------
    body : mapping
    provider : str
        As genai-prices has it; else its tokens are read as those of whose API it was made after.

    Raises
    ------
    ValueError
        What it says of its tokens can't be read.
    """
    home, *flavors = _SHAPES[_shape(body)]
    errors = []
    for owner in dict.fromkeys((provider, home)):
        known = _provider(owner)
        for flavor in flavors if known is not None else ():
            if known.extractors and any(one.api_flavor == flavor for one in known.extractors):
                try:
                    _, usage = known.extract_usage(body, api_flavor=flavor)
                except ValueError as error:
                    errors.append(error)
                else:
                    return _with_tools(dict(_reported(usage)), body)
    raise errors[0] if errors else ValueError("nobody knows how to read its tokens")


def charge(used: Amounts, *, provider: str, model: str, at: float, body: Mapping[str, Any]) -> Charged:
    """Price what a call used.

    Parameters
    ----------
    used : mapping of str to int or Decimal
    provider : str
    model : str
    at : float
        When, in seconds since the epoch: prices change.
    body : mapping
        What it says of its tier.
    """
    import genai_prices
    from genai_prices.types import calc_unit_price

    found = _provider(provider)
    if found is None:
        return _unknown("whose API it is is not known; name it with providers={'host:port': 'openai'}")
    snapshot = _snapshot()
    try:
        _, info = snapshot.find_provider_model(model, found, None, None)
    except LookupError:
        return _unknown(f"genai-prices knows no model {model!r} of {provider}")
    context = _context(body)
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        return _unknown(f"{at} seconds since 1970 is no time that it can have been")
    variants = [one for one in info.price_variants or () if one.constraint is None or one.constraint.active(moment)]
    for name, value in context.items():
        # Without a variant genai-prices would take the plain price, and says nothing.
        if not any(info is one for one in found.models) or not any(one.when.get(name) == value for one in variants):
            return _unknown(f"genai-prices has no price of {name.replace('_', ' ')} {value!r} of {model}")
    if nameless := [tool for tool in body.get("tools", {}) if TOOLS[tool] is None]:
        return _unknown(f"genai-prices has no price of {nameless[0]}")
    usage = genai_prices.Usage(**used)
    try:
        told = info.calc_price(usage, found, genai_request_timestamp=moment, price_context=context or None)
        said = vars(told.model_price)
        rates = {unit.usage_key: (unit, said[key]) for key, unit in _priced_units().items() if said.get(key) is not None}
        counts = _counts(used, {unit.usage_key: unit for unit, _ in rates.values()})
    except (ValueError, ArithmeticError) as error:
        return _unknown(f"genai-prices can't price it: {error}")
    unpriced = [name for name in used if not any(_is_within(name, priced) for priced in rates)]
    if unpriced:
        return _unknown(f"genai-prices has no price of {unpriced[0]} of {model}")
    all_input = used.get("input_tokens", 0)
    meters = tuple(
        Meter(name, unit.per, calc_unit_price(rate, unit.per, all_input, unit.per)) for name, (unit, rate) in sorted(rates.items())
    )
    source = f"genai-prices {genai_prices.__version__}{', updated' if told.auto_update_timestamp else ''}: {found.id} {info.id}"
    price = TokenPrice(currency="USD", source=source, read_at=snapshot.timestamp.timestamp(), meters=meters)
    parts = sum((meter.rate * counts.get(meter.name, 0) / meter.per for meter in meters), Decimal(0))
    if abs(parts - told.total_price) > Decimal("1e-9"):
        return _unknown(f"genai-prices says {told.total_price} USD, and the parts of it come to {parts}")
    return Charged(counts, price, "")


def _unknown(why: str) -> Charged:
    return Charged({}, None, why)


def _counts(used: Amounts, priced: Mapping[str, Any]) -> dict[str, int | Decimal]:
    """Say how much each meter counts: what a finer one has is not the coarser one's."""
    from genai_prices.decompose import compute_leaf_values

    requests = {"requests": 1} if "requests" in priced else {}
    finer = {name: unit for name, unit in priced.items() if name != "requests"}
    usage = _Usage({name: used.get(name, 0) for name in finer})
    leaves = compute_leaf_values(set(finer), usage, finer)
    return {name: _exact(amount) for name, amount in {**leaves, **requests}.items() if amount}


class _Usage:
    def __init__(self, amounts: Amounts) -> None:
        self.__dict__.update(amounts)


def _is_within(name: str, priced: str) -> bool:
    """Whether what is called so is a part of what is priced."""
    units = _units()
    return bool(units[priced].dimensions.items() <= units[name].dimensions.items())


def _context(body: Mapping[str, Any]) -> dict[str, str]:
    """Return what a response says of its tier, where that is not the plain one."""
    usage = body.get("usage")
    inner = usage if isinstance(usage, Mapping) else {}
    tier = body.get("service_tier") or inner.get("service_tier")
    found = {"processing": tier} if tier == "batch" else {"service_tier": tier}
    found["speed"] = inner.get("speed")
    return {name: str(value) for name, value in found.items() if value not in _PLAIN}


def _shape(body: Mapping[str, Any]) -> str:
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return "gemini"
    if "prompt_tokens" in usage:
        return "chat" if "completion_tokens" in usage else "embeddings"
    return "responses" if body.get("object") == "response" else "messages"


def _with_tools(used: dict[str, int | Decimal], body: Mapping[str, Any]) -> dict[str, int | Decimal]:
    for tool, count in body.get("tools", {}).items():
        if (name := TOOLS[tool]) is not None:
            used[name] = max(used.get(name, 0), count)
    return used


def _reported(usage: Any) -> Iterator[tuple[str, int | Decimal]]:
    for name in filter(is_counted, vars(usage)):
        if amount := usage.reported_value(name):
            if amount > MOST:
                raise ValueError(f"{name} is {amount}: from 0 to {MOST:,} can be")
            yield name, _exact(amount)


def _exact(amount: float | Decimal) -> int | Decimal:
    return amount if isinstance(amount, (int, Decimal)) else Decimal(repr(amount))


def _provider(name: str) -> Any:
    return next((provider for provider in _snapshot().providers if provider.id == name), None)


def _snapshot() -> Any:
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


@cache
def _units() -> Mapping[str, Any]:
    from genai_prices.data_units import unit_data
    from genai_prices.units import UnitRegistry

    return UnitRegistry(unit_data).units


@cache
def _priced_units() -> Mapping[str, Any]:
    return {unit.price_key: unit for unit in _units().values()}
