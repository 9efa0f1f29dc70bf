"""Chats with a running server from the terminal, over REST or gRPC."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dragoman_cli.output import CommandError, note, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Conversation = list[dict[str, str]]
    Ask = Callable[[Conversation], Iterator[str]]

TIMEOUT = 300.0
"""Seconds of silence after which a server counts as gone."""


def chat(prompt: str | None, *, model: str, system: str, url: str, grpc: str | None, key: str) -> None:
    """Answers one prompt, or holds a conversation until the input ends.

    Raises:
        CommandError: If the server cannot be reached or refuses.
    """

    def ask(conversation: Conversation) -> Iterator[str]:
        return _ask_grpc(grpc, key, model, conversation) if grpc else _ask_rest(url, key, model, conversation)

    conversation = [{"role": "system", "content": system}] if system else []
    if prompt is not None:
        _answer(ask, [*conversation, {"role": "user", "content": prompt}])
        return
    if sys.stdin.isatty():
        note("Ctrl+C stops an answer, Ctrl+D leaves.")
    while (line := _read()) is not None:
        if not line.strip():
            continue
        asked = [*conversation, {"role": "user", "content": line}]
        try:
            answer = _answer(ask, asked)
        except CommandError as error:
            note(f"error: {error}")
            continue
        conversation = [*asked, {"role": "assistant", "content": answer}]


def _read() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        return None


def _answer(ask: Ask, conversation: Conversation) -> str:
    """Prints an answer as it comes, and returns it; Ctrl+C keeps what came."""
    pieces: list[str] = []
    try:
        for piece in ask(conversation):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        note("\n(stopped)")
    say()
    return "".join(pieces)


def _ask_rest(url: str, key: str, model: str, conversation: Conversation) -> Iterator[str]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CommandError(f"--url {url}: not an http or https URL")
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname, parts.port, timeout=TIMEOUT)
    path = parts.path.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
    body = {"messages": conversation, "stream": True} | ({"model": model} if model else {})
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise CommandError(_refusal(response))
        yield from _texts(response)
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"{url}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _texts(response: http.client.HTTPResponse) -> Iterator[str]:
    """Yields the texts of a stream.

    Raises:
        CommandError: If it breaks off, or ends with an error.
    """
    for line in response:
        if not line.startswith(b"data: "):
            continue
        if line.rstrip() == b"data: [DONE]":
            return
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise CommandError(chunk["error"]["message"])
        for choice in chunk["choices"]:
            delta = choice["delta"]
            yield delta.get("content") or delta.get("refusal") or ""
    raise CommandError("the answer broke off")


def _refusal(response: http.client.HTTPResponse) -> str:
    text = response.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answers {response.status} {response.reason}: {text[:200]}"


def _ask_grpc(address: str, key: str, model: str, conversation: Conversation) -> Iterator[str]:
    """Drives the asynchronous client from here, one piece at a time; leaving the iteration cancels the run."""
    from dragoman_client import Dragoman, DragomanClientError

    with asyncio.Runner() as runner:

        async def connect() -> Dragoman:
            return Dragoman(address, key)

        client = runner.run(connect())
        try:
            pieces = client.stream(conversation, model=model).text()
            while (piece := runner.run(anext(pieces, None))) is not None:
                yield piece
        except DragomanClientError as error:
            raise CommandError(str(error)) from error
        finally:
            runner.run(client.close())
