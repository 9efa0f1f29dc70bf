"""Puts the tool calls of a stream in order, however a server cuts them.

The rule of the dialect is an index in every fragment, and id and name in the first one. Servers are seen that leave the
index out, say 0 for every call, repeat id and name in every fragment, leave the id out, or send arguments as an object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.message_pb2 import ToolKind
from dragoman_server.ids import new_id
from dragoman_server.providers.failures import broken
from dragoman_server.providers.json_values import bytes_of

if TYPE_CHECKING:
    from dragoman_server.providers.base import EventBatch


class _Call:
    __slots__ = ("arguments", "call_id", "custom", "name", "signature", "started", "upstream_index")

    def __init__(self, upstream_index: object) -> None:
        self.upstream_index = upstream_index
        self.call_id = ""
        self.name = ""
        self.custom = False
        self.signature = b""
        self.started = False
        self.arguments: list[str] = []


class ToolCalls:
    """The calls of one choice: turns fragments into events, each call started once and completed once.

    Args:
        choice_index: The index that the events carry.
        mark: The provider's mark on its signatures; empty leaves them out.
    """

    def __init__(self, choice_index: int, mark: bytes) -> None:
        self._choice_index = choice_index
        self._mark = mark
        self._calls: list[_Call] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, fragment: Any, batch: EventBatch, *, whole: bool = False) -> None:
        """Adds a fragment, or a whole call, and appends what it tells to the batch.

        Raises:
            ProviderError: If the fragment makes no sense.
        """
        if not isinstance(fragment, dict):
            raise broken("a tool call is not an object")
        custom = fragment.get("custom")
        function = fragment.get("function") if custom is None else custom
        if function is None:
            function = {}
        if not isinstance(function, dict):
            raise broken("a tool call names no function")
        call_id = _text(fragment.get("id"), "id")
        name = _text(function.get("name"), "name")
        arguments = _arguments(function.get("arguments") if custom is None else function.get("input"))
        index = fragment.get("index")
        call = None if whole else self._find(call_id, index, name, arguments)
        if call is None:
            call = _Call(index)
            self._calls.append(call)
        call.call_id = call.call_id or call_id
        call.name = call.name or name
        call.custom = call.custom or custom is not None
        if "extra_content" in fragment:  # with what begins the call: it is told with its beginning
            call.signature = call.signature or _signature(fragment["extra_content"])
        self._append(call, arguments, batch)

    def complete(self, batch: EventBatch) -> None:
        """Appends the end of every call.

        Raises:
            ProviderError: If a call never got a name.
        """
        for call_index, call in enumerate(self._calls):
            if not call.started:
                raise broken("a tool call has no name")
            completed = batch.events.add().tool_call_completed
            completed.choice_index = self._choice_index
            completed.call_index = call_index

    def _find(self, call_id: str, index: object, name: str, arguments: str) -> _Call | None:
        """Returns the call that a fragment continues, None if it begins one."""
        if call_id:
            for call in self._calls:
                if call.call_id == call_id:
                    return call
        calls = self._calls if index is None else [call for call in self._calls if call.upstream_index == index]
        if not calls:
            return None
        last = calls[-1]
        if not name or not last.name:
            return last
        if call_id and last.call_id:
            return None  # another id and a name: another call, whatever the index says
        if name != last.name or (arguments and _is_json("".join(last.arguments))):
            return None
        return last

    def _append(self, call: _Call, arguments: str, batch: EventBatch) -> None:
        pending = arguments if call.started else "".join(call.arguments) + arguments
        if arguments:
            call.arguments.append(arguments)
        if not call.name:
            return
        call_index = self._calls.index(call)
        if not call.started:
            call.started = True
            call.call_id = call.call_id or new_id("call")
            started = batch.events.add().tool_call_started
            started.choice_index = self._choice_index
            started.call_index = call_index
            started.call_id = call.call_id
            started.name = call.name
            started.tool_kind = ToolKind.TOOL_KIND_CUSTOM if call.custom else ToolKind.TOOL_KIND_FUNCTION
            if call.signature and self._mark:
                started.signature = self._mark + call.signature
        if pending:
            delta = batch.events.add().tool_call_arguments_delta
            delta.choice_index = self._choice_index
            delta.call_index = call_index
            delta.arguments = pending


def _text(value: Any, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise broken(f"the {what} of a tool call is not text")
    return value


def _signature(extra: Any) -> bytes:
    """Returns the proof that a call is the provider's own, as Google extends the dialect; nothing if there is none."""
    match extra:
        case {"google": {"thought_signature": str(encoded)}}:
            return bytes_of(encoded, "signature of a tool call")
    return b""  # others may put other things there


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode()


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
