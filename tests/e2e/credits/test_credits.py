"""Credits as operators and clients see them: over REST, from the command line, and in refusals of each dialect."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.support.command import dragoman
from tests.support.server import CONFIG, MODEL, Server, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRICED = f"""{CONFIG}
[credits]
enabled = true
currencies = ["spark"]
[[credits.prices]]
model = "{MODEL}"
request_micros = 1000
input_micros_per_million = 1_000_000
output_micros_per_million = 2_000_000
[[plans]]
name = "pro"
monthly_micros = 5_000_000
rollover_micros = 1_000_000
"""


@pytest.fixture
def priced(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path, config=PRICED) as server:
        yield server


def call(server: Server, method: str, path: str, body: object = None, key: str = "", **headers: str) -> tuple[int, Any]:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
    headers = {"Authorization": f"Bearer {key or server.key}", "Content-Type": "application/json", **headers}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    result = answer.status, json.loads(answer.read())
    connection.close()
    return result


def chat(server: Server, **fields: object) -> tuple[int, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}
    return call(server, "POST", "/v1/chat/completions", body)


def test_credits_over_rest(priced: Server) -> None:
    assert call(priced, "GET", "/v1/credits/balances") == (200, {})
    grant = {"account_id": "default", "amount_micros": "50000", "note": "a start", "request_id": "one"}
    status, granted = call(priced, "POST", "/v1/credits/grant", grant)
    assert (status, granted["balance"]) == (200, {"currency": "credits", "available_micros": "50000"})
    assert granted["entry"]["kind"] == "KIND_GRANT"
    assert call(priced, "POST", "/v1/credits/grant", grant) == (200, granted)
    adjusted = call(priced, "POST", "/v1/credits/adjust", {"account_id": "default", "amount_micros": -10000})
    assert adjusted[1]["balance"]["available_micros"] == "40000"
    assert chat(priced, max_tokens=100)[0] == 200
    status, listed = call(priced, "GET", "/v1/credits/entries?page_size=3")
    kinds = [entry["kind"] for entry in listed["entries"]]
    assert sorted(kinds) == ["KIND_CHARGE", "KIND_HOLD", "KIND_RELEASE"]
    run_id = listed["entries"][0]["run_id"]
    assert run_id.startswith("run_")
    status, rest = call(priced, "GET", f"/v1/credits/entries?page_token={listed['next_page_token']}")
    assert [entry.get("note", "") for entry in rest["entries"]] == ["", "a start"]
    assert call(priced, "GET", f"/v1/credits/entries?run_id={run_id}")[1]["entries"] == listed["entries"]
    (balance,) = call(priced, "GET", "/v1/credits/balances")[1]["balances"]
    assert 0 < int(balance["available_micros"]) < 39000
    assert "held_micros" not in balance
    status, prices = call(priced, "GET", "/v1/credits/prices")
    assert prices["prices"] == [
        {
            "operation": "chat", "model": MODEL, "request_micros": "1000", "input_micros_per_million": "1000000",
            "output_micros_per_million": "2000000",
        }
    ]  # fmt: skip
    assert prices["plans"] == [
        {"name": "pro", "currency": "credits", "monthly_micros": "5000000", "rollover_micros": "1000000"}
    ]


def test_what_is_wrong_is_named(priced: Server) -> None:
    for path, body, status, param in (
        ("grant", {"account_id": "default", "amount_micros": 0}, 400, "amount_micros"),
        ("grant", {"account_id": "default", "amount_micros": 1, "currency": "gold"}, 400, "currency"),
        ("grant", {"account_id": "default", "amount_micros": "many"}, 400, "amount_micros"),
        ("grant", {"account_id": "default", "amount": 1}, 400, "amount"),
        ("grant", {"account_id": "nobody", "amount_micros": 1}, 404, None),
        ("adjust", {"account_id": "default", "amount_micros": -1}, 402, None),
    ):
        found, answer = call(priced, "POST", f"/v1/credits/{path}", body)
        assert (found, answer["error"]["param"]) == (status, param), answer
    for path in ("credits/balances", "credits/entries", "usage", "usage/summary"):
        assert call(priced, "GET", f"/v1/{path}?account_id=nobody")[0] == 404
        assert call(priced, "GET", f"/v1/{path}?account_id=default")[0] == 200
    assert call(priced, "GET", "/v1/credits/balances", key="dgm_wrong-key-wrong-key-wrong")[0] == 401


def test_members_see_their_own_and_change_nothing(priced: Server) -> None:
    account = call(priced, "POST", "/v1/accounts", {"name": "another"})[1]["account"]["id"]
    status, made = call(priced, "POST", "/v1/keys", {"name": "member", "account_id": account})
    key = made["secret"]
    assert status == 200
    call(priced, "POST", "/v1/credits/grant", {"account_id": account, "amount_micros": 7})
    call(priced, "POST", "/v1/credits/grant", {"account_id": "default", "amount_micros": 9})
    (balance,) = call(priced, "GET", "/v1/credits/balances", key=key)[1]["balances"]
    assert balance["available_micros"] == "7"
    assert call(priced, "GET", "/v1/credits/entries", key=key)[0] == 403  # they tell what everybody did
    grown_up = {"name": "admin", "role": "KEY_ROLE_ADMIN", "account_id": account}
    admin = call(priced, "POST", "/v1/keys", grown_up)[1]["secret"]
    assert len(call(priced, "GET", "/v1/credits/entries", key=admin)[1]["entries"]) == 1
    assert call(priced, "GET", "/v1/credits/entries?account_id=default", key=admin)[0] == 404
    assert call(priced, "GET", "/v1/credits/balances?account_id=default", key=key)[0] == 404
    for path in ("grant", "adjust"):
        assert call(priced, "POST", f"/v1/credits/{path}", {"account_id": account, "amount_micros": 1}, key)[0] == 403


def test_the_body_names_the_currency_or_else_the_header_does(tmp_path: Path) -> None:
    sparks = f'[[credits.prices]]\nmodel = "{MODEL}"\ncurrency = "spark"\nrequest_micros = 1\n'
    with running_server(tmp_path, config=PRICED.replace("[[plans]]", sparks + "[[plans]]")) as server:
        for currency in ("credits", "spark"):
            grant = {"account_id": "default", "amount_micros": 10**9, "currency": currency}
            assert call(server, "POST", "/v1/credits/grant", grant)[0] == 200
        question = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}

        def asked(header: str | None, **fields: object) -> tuple[int, Any, str]:
            headers = {} if header is None else {"X-Token-Type": header}
            status, answer = call(server, "POST", "/v1/chat/completions", {**question, **fields}, **headers)
            newest = call(server, "GET", "/v1/credits/entries?page_size=1")[1]["entries"][0]
            return status, answer, newest["currency"]

        for header, fields, paid in (
            (None, {}, "credits"),
            ("spark", {}, "spark"),
            ("credits", {"token_type": "spark"}, "spark"),
            ("spark", {"token_type": "credits"}, "credits"),
            ("spark", {"token_type": "auto"}, "credits"),
            ("spark", {"token_type": None}, "spark"),
        ):
            status, answer, currency = asked(header, **fields)
            assert (status, currency) == (200, paid), answer
        status, answer, _ = asked("spark", token_type="gold")
        assert (status, answer["error"]["param"]) == (400, "token_type")
        assert "credits, spark, auto" in answer["error"]["message"]


def test_each_dialect_says_402(priced: Server) -> None:
    status, answer = chat(priced, max_tokens=5)
    assert (status, answer["error"]["code"]) == (402, "insufficient_quota")
    contents = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
    status, answer = call(priced, "POST", f"/v1beta/models/{MODEL}:generateContent", contents)
    assert (status, answer["error"]["code"]) == (402, 402)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True}
    assert call(priced, "POST", "/v1/chat/completions", body)[0] == 402


def test_an_operator_grants_while_the_server_runs(tmp_path: Path) -> None:
    with running_server(tmp_path, config=PRICED) as server:
        options = ("--data-dir", str(tmp_path / "data"), "--config", str(tmp_path / "dragoman.toml"))
        assert chat(server, max_tokens=5)[0] == 402
        granted = dragoman("credits", "grant", "0.5", "--note", "for a trial", "--request-id", "one", *options)
        assert granted.stdout.startswith("Granted 0.5 credits to default (txn_")
        assert dragoman("credits", "grant", "0.5", "--request-id", "one", *options).stdout == granted.stdout
        assert chat(server, max_tokens=5)[0] == 200
        taken = dragoman("credits", "adjust", "-0.25", *options)
        assert "by -0.25" in taken.stdout
        ledger = dragoman("credits", "ledger", "--count", "9", *options).stdout.splitlines()
        assert [line.split()[3] for line in ledger[1:]].count("charge") == 1
        assert len(ledger) == 6
        assert "for a trial" in ledger[-1]
        shown = dragoman("credits", "balance", *options).stdout.splitlines()
        assert shown[0].split() == ["CURRENCY", "AVAILABLE", "RESERVED"]
        assert shown[1].startswith("credits   0.24")
        for arguments in (("grant", "1.1234567"), ("grant", "x"), ("adjust", "-9"), ("grant", "0")):
            refused = dragoman("credits", *arguments, *options)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert refused.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "command", [("credits", "balance"), ("credits", "ledger"), ("usage", "list"), ("conversations", "list")]
)
def test_an_account_that_does_not_exist_is_told_on_the_command_line(command: tuple[str, str], tmp_path: Path) -> None:
    data = {"DRAGOMAN_DATA_DIR": str(tmp_path)}
    assert dragoman(*command, "--account", "default", **data).returncode == 0
    refused = dragoman(*command, "--account", "nobody", **data)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "account 'nobody' does not exist" in refused.stderr
