"""The same prompt through REST and gRPC gives the same run."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from dragoman.v1.run_pb2 import Run
from dragoman.v1.run_service_pb2 import ExecuteRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from tests.support.core import METADATA, running_core
from tests.support.edge import client_of, running_edge
from tests.support.runs import chat_spec

SCRIPTS: list[dict[str, Any]] = [
    {"text": ["Hel", "lo"]},
    {"reasoning": ["hm"], "text": ["a", "b"], "finish": "length"},
    {"tool_calls": [{"name": "f", "arguments": ['{"x"', ":1}"], "id": "call_1"}]},
    {"refusal": ["no"]},
    {"text": ["a", "b"], "fail_after": 1},
]


def without_identity(run: Run) -> Run:
    same = Run()
    same.CopyFrom(run)
    for field in ("id", "create_time", "end_time"):
        same.ClearField(field)
    return same


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: "-".join(script))
async def test_rest_and_grpc_give_the_same_run(script: dict[str, Any], stream: bool) -> None:
    async with running_core() as core, running_edge(core.channel()) as edge:
        prompt = "SCRIPT " + json.dumps(script)
        body = {"model": "demo/echo", "stream": stream, "messages": [{"role": "user", "content": prompt}]}
        async with client_of(edge) as client:
            async with client.post("/v1/chat/completions", json=body) as answer:
                await answer.read()
                run_id = answer.headers["x-dragoman-run-id"]
            async with client.get(f"/v1/runs/{run_id}") as answer:
                over_rest = json_format.ParseDict((await answer.json())["run"], Run())
        assert core.grpc_address is not None
        async with grpc.aio.insecure_channel(core.grpc_address) as channel:
            request = ExecuteRunRequest(spec=chat_spec(**script))
            over_grpc = (await RunServiceStub(channel).ExecuteRun(request, metadata=METADATA)).run
    if not stream or over_grpc.state == Run.STATE_COMPLETED:
        assert without_identity(over_rest) == without_identity(over_grpc)
    else:  # the plain answer of a provider that fails says nothing; a stream has said something by then
        assert over_rest.failure == over_grpc.failure
