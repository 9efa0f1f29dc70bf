"""Which headers tell who made an answer, and how the request differs from what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dragoman.v1.event_pb2 import RunEvent
    from dragoman.v1.run_pb2 import Run
    from dragoman.v1.run_service_pb2 import StreamRunResponse

MODEL, PROVIDER, ATTEMPTS = "x-dragoman-model", "x-dragoman-provider", "x-dragoman-attempts"
EMULATED, DROPPED = "x-dragoman-emulated", "x-dragoman-dropped-params"
HEADERS = {
    MODEL: "The provider's own name of the model, where one answered.",
    PROVIDER: "Name of the provider that answered.",
    ATTEMPTS: "How many attempts it took, retries and fallbacks included.",
    EMULATED: "Features that the model lacks and that the server stood in for, if there are any.",
    DROPPED: "Parameters that were left out, if there are any.",
}
"""The headers, and what they tell."""

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
        if run.emulated_features or run.dropped_params:
            _tell_changes(headers, run.emulated_features, run.dropped_params, name_of)


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
