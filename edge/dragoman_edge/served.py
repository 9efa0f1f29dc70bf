"""Which headers tell who made an answer, and how the request differs from what was asked for."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from dragoman_edge.rate_state import HEADERS as RATE_STATE
from dragoman_edge.rate_state import tell_rate_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dragoman.v1.embedding_service_pb2 import EmbedResponse
    from dragoman.v1.event_pb2 import RunEvent
    from dragoman.v1.run_pb2 import Run
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman.v1.usage_pb2 import Charge

MODEL, PROVIDER, ATTEMPTS = "x-dragoman-model", "x-dragoman-provider", "x-dragoman-attempts"
EMULATED, DROPPED = "x-dragoman-emulated", "x-dragoman-dropped-params"
CURRENCY = "x-dragoman-currency"
CHARGED = "x-dragoman-charged-micros"
AVAILABLE = "x-dragoman-available-micros"
LOWERED = "x-dragoman-lowered-output-tokens"

HEADERS = {
    MODEL: "The provider's own name of the model, where one answered.",
    PROVIDER: "Name of the provider that answered.",
    ATTEMPTS: "How many attempts it took, retries and fallbacks included.",
    EMULATED: "Features that the model lacks and that the server stood in for, if there are any.",
    DROPPED: "Parameters that were left out, if there are any.",
    **RATE_STATE,
    CURRENCY: "The currency that paid for a whole answer, where credits are on.",
    CHARGED: "Millionths of it that were charged.",
    AVAILABLE: "Millionths of it that are left.",
    LOWERED: "The output limit that the balance bought, where it was lower than the one asked for.",
}
"""The headers, and what they tell."""

_LONGEST_REMEMBERED = 512
"""Characters of names whose headers are remembered: clients may make names up."""
_BEFORE_CONTENT = frozenset({"run_started", "step_started", "usage_reported"})


def tell_run(headers: dict[str, str], run: Run, name_of: Callable[[str], str]) -> None:
    """Adds the headers of a run that has ended.

    Args:
        headers: Those of the answer.
        run: The run.
        name_of: Puts a path in the contract into the words of the dialect.
    """
    if attempts := run.attempts:
        headers[MODEL] = _value(run.upstream_model)
        headers[PROVIDER] = run.provider
        headers[ATTEMPTS] = str(attempts)
    tell_circumstances(headers, run, name_of)


def lines_of(run: Run) -> str:
    """Returns the headers that tell who served a run, each with its line break; they are mostly the same ones.

    Raises:
        ValueError: If the provider's name holds a line break.
    """
    if not (attempts := run.attempts):
        return ""
    model, provider = run.upstream_model, run.provider
    write = _served_by if len(model) + len(provider) <= _LONGEST_REMEMBERED else _served_by.__wrapped__
    return write(model, provider, attempts)


def tell_circumstances(headers: dict[str, str], run: Run, name_of: Callable[[str], str]) -> None:
    """Adds what else `tell_run` adds: limits, charges, and what was changed of the request."""
    if run.HasField("rate_state"):
        tell_rate_state(headers, run.rate_state)
    if run.HasField("charge"):
        _tell_charge(headers, run.charge)
    if run.emulated_features or run.dropped_params:
        _tell_changes(headers, run.emulated_features, run.dropped_params, name_of)


@lru_cache(maxsize=256)
def _served_by(model: str, provider: str, attempts: int) -> str:
    if not provider.isprintable():
        raise ValueError("the name of a provider holds what a header cannot have")
    return f"{MODEL}: {_value(model)}\r\n{PROVIDER}: {provider}\r\n{ATTEMPTS}: {attempts}\r\n"


def tell_start(headers: dict[str, str], batch: StreamRunResponse, name_of: Callable[[str], str]) -> None:
    """Adds what a batch that comes before or with the first content tells; the last attempt counts.

    Args:
        headers: Those of the answer.
        batch: The batch.
        name_of: Puts a path in the contract into the words of the dialect.
    """
    for event in batch.events:
        if event.WhichOneof("kind") not in _BEFORE_CONTENT:
            return
        if event.HasField("step_started"):
            _tell_step(headers, event, name_of)
        elif event.HasField("run_started") and event.run_started.HasField("rate_state"):
            tell_rate_state(headers, event.run_started.rate_state)


def tell_vectors(headers: dict[str, str], response: EmbedResponse) -> None:
    """Adds the headers of an answer of vectors."""
    headers[MODEL] = _value(response.upstream_model)
    headers[PROVIDER] = response.provider
    headers[ATTEMPTS] = str(response.attempts)
    if response.HasField("rate_state"):
        tell_rate_state(headers, response.rate_state)
    if response.HasField("charge"):
        _tell_charge(headers, response.charge)


def _tell_charge(headers: dict[str, str], charge: Charge) -> None:
    headers[CURRENCY] = charge.currency
    headers[CHARGED] = str(charge.amount_micros)
    headers[AVAILABLE] = str(charge.available_micros)
    if charge.lowered_output_tokens:
        headers[LOWERED] = str(charge.lowered_output_tokens)


def _tell_step(headers: dict[str, str], event: RunEvent, name_of: Callable[[str], str]) -> None:
    step = event.step_started
    headers[MODEL] = _value(step.upstream_model)
    headers[PROVIDER] = step.provider
    headers[ATTEMPTS] = str(max(step.attempt, int(headers.get(ATTEMPTS, "1"))))
    _tell_changes(headers, step.emulated_features, step.dropped_params, name_of)


def _tell_changes(
    headers: dict[str, str], emulated: Iterable[str], dropped: Iterable[str], name_of: Callable[[str], str]
) -> None:
    for header, paths in ((EMULATED, emulated), (DROPPED, dropped)):
        if paths:
            headers[header] = ", ".join(map(name_of, paths))
        else:
            headers.pop(header, None)  # of an earlier attempt


def _value(name: str) -> str:
    """Returns a name as a header can have it: clients may ask for models of any name."""
    return name if name.isascii() and name.isprintable() else quote(name, safe="/:@")
