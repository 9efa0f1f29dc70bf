"""Asks a model something on behalf of a caller: a run like any other, of which only the words of its answer matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.run_pb2 import Run, RunSpec
from dragoman_server.errors import ProviderError
from dragoman_server.runs.service import StartOptions

if TYPE_CHECKING:
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_server.caller import Caller
    from dragoman_server.runs.service import Runs


async def ask(runs: Runs, caller: Caller, chat: ChatSpec) -> str:
    """Returns the words of a model's answer. Cancelling it cancels the run.

    Raises:
        DragomanError: If the run is refused or fails.
    """
    run = await runs.submit(caller, RunSpec(chat=chat), StartOptions("ExecuteRun", incremental=False))
    run.add_caller()
    try:
        await run.wait_ended()
    finally:
        run.remove_caller()
    record = run.record()
    if record.state != Run.STATE_COMPLETED:
        raise ProviderError(record.failure.message or "the answer was cancelled", metadata={"run_id": run.id})
    return "".join(part.text.text for part in record.choices[0].message.parts)
