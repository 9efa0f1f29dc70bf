from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from tests.support.echo_service import handler_mark, interceptor_mark

if TYPE_CHECKING:
    from tests.support.lanes import Lane

caller_mark: ContextVar[str] = ContextVar("caller_mark", default="unset")


async def test_context_variables_do_not_leak(lane: Lane) -> None:
    handler_mark.set("set by the caller")
    interceptor_mark.set("set by the caller")
    await lane.execute("contexts", metadata=(("mark", "m1"),))
    await lane.execute("contexts", metadata=(("mark", "m2"),))
    assert (handler_mark.get(), interceptor_mark.get()) == ("set by the caller", "set by the caller")
    # The interceptor's mark reached the handler; the caller's and the former handler's did not.
    await lane.notes.wait_for("m1 unset")
    await lane.notes.wait_for("m2 unset")


async def test_done_callbacks_run_in_the_context_of_the_caller(lane: Lane) -> None:
    caller_mark.set("mine")
    call = lane.execute("slow")
    seen: list[tuple[bool, str]] = []
    call.add_done_callback(lambda done: seen.append((done is call, caller_mark.get())))
    await call
    assert await lane.execute("slow") is not None
    assert seen == [(True, "mine")]
