from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from dragoman_server.caller import Caller
from dragoman_server.conversations.service import Conversations
from dragoman_server.settings import ConversationSettings
from dragoman_server.store.database import open_store, sqlite_url
from tests.support.command import dragoman
from tests.support.conversations import creation

if TYPE_CHECKING:
    from pathlib import Path

ALICE = Caller("default", "", user_id="user_alice")


async def make(folder: Path) -> tuple[str, str]:
    """One conversation of a user and one of nobody."""
    store = open_store(sqlite_url(folder / "dragoman.db"))
    await store.migrate()
    service = Conversations(store.conversations, ConversationSettings())
    made = [await service.create(caller, creation("Hello")) for caller in (ALICE, Caller("default", ""))]
    await store.close()
    return made[0].id, made[1].short_id


def test_conversations_on_the_command_line(tmp_path: Path) -> None:
    mine, nobodys = asyncio.run(make(tmp_path))
    data = {"DRAGOMAN_DATA_DIR": str(tmp_path)}
    listed = dragoman("conversations", "list", **data).stdout
    assert mine in listed
    assert len(listed.splitlines()) == 3
    assert len(dragoman("conversations", "list", "--user", "user_alice", **data).stdout.splitlines()) == 2
    assert len(dragoman("conversations", "list", "--query", "HELLO", **data).stdout.splitlines()) == 3
    assert dragoman("conversations", "show", nobodys, **data).stdout.endswith("user] Hello\n")
    exported = dragoman("conversations", "export", mine, **data).stdout
    assert json.loads(exported)["conversation"]["title"] == "Hello"
    file = tmp_path / "one.json"
    file.write_text(exported)
    copied = dragoman("conversations", "import", str(file), "--user", "user_bob", **data).stdout.strip()
    assert "user_bob" in next(
        line for line in dragoman("conversations", "list", **data).stdout.splitlines() if copied in line
    )
    assert dragoman("conversations", "purge", mine, **data).stdout == f"Purged {mine} (Hello).\n"
    refused = dragoman("conversations", "show", mine, **data)
    assert refused.returncode == 1
    assert "does not exist" in refused.stderr
    refused = dragoman("conversations", "import", str(tmp_path / "none.json"), **data)
    assert (refused.returncode, refused.stdout) == (1, "")


async def make_twins(folder: Path) -> tuple[list[str], str]:
    """Two users' conversations of one short id, the second one deleted, and that short id."""
    store, short_id = open_store(sqlite_url(folder / "dragoman.db")), "ab" * 12
    await store.migrate()
    service = Conversations(store.conversations, ConversationSettings())
    callers = [ALICE, Caller("default", "", user_id="user_bob")]
    made = [(await service.create(caller, creation("Hello", short_id=short_id))).id for caller in callers]
    await service.delete(callers[1], short_id)
    await store.close()
    return made, short_id


def test_acts_on_the_command_line_are_told_and_hit_one_user_only(tmp_path: Path) -> None:
    (hers, his), short_id = asyncio.run(make_twins(tmp_path))
    data = {"DRAGOMAN_DATA_DIR": str(tmp_path)}
    refused = dragoman("conversations", "purge", short_id, **data)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert hers in refused.stderr
    assert his in refused.stderr
    assert dragoman("conversations", "purge", short_id, "--user", "user_bob", **data).stdout.startswith("Purged")
    assert dragoman("conversations", "purge", his, **data).returncode == 1
    file = tmp_path / "one.json"
    file.write_text(dragoman("conversations", "export", short_id.upper(), **data).stdout)
    copied = dragoman("conversations", "import", str(file), **data).stdout.strip()
    told = [line.split() for line in dragoman("accounts", "audit", "default", **data).stdout.splitlines()]
    acts = [(act, target) for act, target in (("import", copied), ("export", hers), ("purge", his))]
    found = [[word for word in line if word.startswith(("conversation.", "conv_"))] for line in told]
    assert [words for words in found if words] == [[f"conversation.{act}", target] for act, target in acts]
