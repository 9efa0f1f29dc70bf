from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2

from dragoman.v1 import run_service_pb2 as pb

if TYPE_CHECKING:
    from tests.support.lanes import Lane


async def failure_of(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_response_metadata_and_status(lane: Lane) -> None:
    call = lane.execute("echo", "r1")
    assert (await call).run.id == "r1"
    assert call.done()
    assert not call.cancelled()
    assert not call.cancel()
    assert (await call).run.id == "r1"
    assert await call.code() is grpc.StatusCode.OK
    assert await call.details() == ""
    assert (await call.initial_metadata())["first-bin"] == b"\x00\x01"
    assert tuple(await call.trailing_metadata()) == (("last", "1"), ("last", "2"), ("last-bin", b"\xfe\xff"))
    await lane.notes.wait_for("done True")


async def test_initial_metadata_comes_before_the_response(lane: Lane) -> None:
    call = lane.stream("echo_metadata")
    await call.wait_for_connection()
    assert "seen" in await call.initial_metadata()
    assert [message.run_id async for message in call] == ["0"]


async def test_abort(lane: Lane) -> None:
    call = lane.execute("abort")
    error = await failure_of(call)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "not now, é"
    assert tuple(error.trailing_metadata()) == (("why", "test"),)
    assert tuple(error.initial_metadata()) == ()
    assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert await call.details() == "not now, é"
    assert not call.cancelled()
    assert (await failure_of(call)).code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_an_abort_counts_even_if_suppressed(lane: Lane) -> None:
    error = await failure_of(lane.execute("abort_suppressed"))
    assert error.code() is grpc.StatusCode.ABORTED
    assert error.details() == "first"
    await lane.notes.wait_for("Locally aborted.")
    await lane.notes.wait_for("Abort already called!")


async def test_abort_keeps_what_was_set_before(lane: Lane) -> None:
    error = await failure_of(lane.execute("preset_abort"))
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "set before")
    assert tuple(error.trailing_metadata()) == (("kept", "yes"),)


async def test_status_details(lane: Lane) -> None:
    error = await failure_of(lane.execute("abort_with_details"))
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    status = status_pb2.Status.FromString(packed)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.message, info.reason) == ("no such run", "RUN_NOT_FOUND")


async def test_a_code_that_is_set_discards_the_response(lane: Lane) -> None:
    error = await failure_of(lane.execute("set_code"))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "set, not raised")
    assert tuple(error.trailing_metadata()) == (("k", "v"),)
    await lane.notes.wait_for("code StatusCode.NOT_FOUND set, not raised (('k', 'v'),)")


async def test_a_code_may_be_a_number(lane: Lane) -> None:
    assert (await failure_of(lane.execute("set_code_number"))).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("do", "code", "details"),
    [
        ("fail", grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: bad é"),
        ("fail_with_code", grpc.StatusCode.RESOURCE_EXHAUSTED, "Unexpected <class 'ValueError'>: bad"),
    ],
)
async def test_an_exception_of_the_handler(lane: Lane, do: str, code: grpc.StatusCode, details: str) -> None:
    error = await failure_of(lane.execute(do))
    assert (error.code(), error.details()) == (code, details)
    assert tuple(error.trailing_metadata()) == ((("k", "v"),) if do == "fail_with_code" else ())
    await lane.notes.wait_for("done True")


@pytest.mark.parametrize(("do", "what"), [("none", "NoneType"), ("wrong_type", "int")])
async def test_a_response_of_no_message_type(lane: Lane, do: str, what: str) -> None:
    error = await failure_of(lane.execute(do))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert (error.details() or "").startswith("Unexpected <class 'TypeError'>: descriptor 'SerializeToString'")
    assert (error.details() or "").endswith(f"doesn't apply to a '{what}' object")


async def test_a_response_of_another_type_is_read_as_the_expected_one(lane: Lane) -> None:
    response = await lane.execute("other_message", "r1")
    assert type(response) is pb.ExecuteRunResponse
    assert response.run.id == "r1"


async def test_a_request_of_another_type_is_read_as_the_expected_one(lane: Lane) -> None:
    request = pb.StartRunRequest(request_id="r1")
    request.spec.labels["do"] = "plain"
    assert (await lane.stub.ExecuteRun(request)).run.id == "r1"


async def test_bytes_pass_as_they_are(lane: Lane) -> None:
    assert await lane.channel.unary_unary("/test.Raw/Bytes")(b"abc") == b"cba"


async def test_an_unknown_method_is_intercepted(lane: Lane) -> None:
    error = await failure_of(lane.raw("unary_unary", "Nothing")(pb.GetRunRequest()))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    await lane.notes.wait_for("intercepted /test.Raw/Nothing missing")


async def test_a_method_that_the_servicer_does_not_implement(lane: Lane) -> None:
    error = await failure_of(lane.stub.GetRun(pb.GetRunRequest()))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "Method not implemented!" in (error.details() or "")


async def test_interceptors_may_answer(lane: Lane) -> None:
    error = await failure_of(lane.execute("plain", metadata=(("refuse", "yes"),)))
    assert (error.code(), error.details()) == (grpc.StatusCode.PERMISSION_DENIED, "refused by the interceptor")


async def test_interceptors_may_refuse_a_stream_with_a_unary_handler(lane: Lane) -> None:
    refuse = (("refuse", "yes"),)
    error = await failure_of(lane.stream("count", 1, metadata=refuse).read())
    assert (error.code(), error.details()) == (grpc.StatusCode.PERMISSION_DENIED, "refused by the interceptor")
    error = await failure_of(lane.raw("stream_unary", "Join")([StringValue(value="a")], metadata=refuse))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_caller_may_expect_a_stream_of_one(lane: Lane) -> None:
    request = pb.ExecuteRunRequest(request_id="r1")
    request.spec.labels["do"] = "plain"
    call = lane.channel.unary_stream(
        "/dragoman.v1.RunService/ExecuteRun",
        request_serializer=pb.ExecuteRunRequest.SerializeToString,
        response_deserializer=pb.ExecuteRunResponse.FromString,
    )(request)
    assert [response.run.id async for response in call] == ["r1"]
    assert (await lane.raw("unary_unary", "Join")(StringValue(value="alone"))).value == "alone"


async def test_what_the_context_says(lane: Lane) -> None:
    await lane.execute("describe", timeout=30)
    await lane.notes.wait_for("identity None None")
    await lane.notes.wait_for("state True False False")
    await lane.notes.wait_for("status None '' ()")
    peer = {"inprocess": "inprocess", "tunnel": "inprocess", "tcp": "ipv4", "unix": "unix"}[lane.kind]
    await lane.notes.wait_for(f"peer {peer}")
    await lane.execute("describe")
    await lane.notes.wait_for("state None False False")


async def test_client_metadata(lane: Lane) -> None:
    sent = (
        ("b", "1"),
        ("x-bin", b"\x00\xff,"),
        ("a", "2"),
        ("b", " 3 "),
        ("empty", ""),
        ("as-bytes", b"v"),
        ("x-bin", b""),
    )
    call = lane.execute("echo", metadata=sent)
    await call
    seen = ast.literal_eval(str((await call.initial_metadata())["seen"]).encode().decode("unicode_escape"))
    assert seen == [
        ("b", "1"), ("b", " 3 "), ("x-bin", b"\x00\xff,"), ("x-bin", b""), ("a", "2"), ("empty", ""), ("as-bytes", "v"),
    ]  # fmt: skip


@pytest.mark.parametrize("metadata", [[("l", "list")], grpc.aio.Metadata(("l", "list")), (("l", "list"), ("te", "x"))])
async def test_forms_of_client_metadata(lane: Lane, metadata: object) -> None:
    call = lane.execute("echo", metadata=metadata)
    await call
    assert (await call.initial_metadata())["seen"] == "[('l', 'list')]"


@pytest.mark.parametrize(
    "entry",
    [
        *[("Upper", "v"), ("", "v"), ("a b", "v"), (":path", "v"), ("a/b", "v"), ("é", "v")],
        *[("a", "é"), ("a", "x\ny"), ("a", "\t"), ("a", "\x7f"), ("a", b"\xff")],
    ],
)
async def test_illegal_metadata(lane: Lane, entry: tuple[str, str | bytes]) -> None:
    with pytest.raises(grpc.aio.InternalError):
        await lane.execute("plain", metadata=(entry,))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lane.stream("count", metadata=(entry,)).read()
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "Invalid metadata")


@pytest.mark.parametrize("entry", [("a-bin", "text"), ("a-bin", bytearray(b"v")), ("a", 5), (5, "a")])
async def test_metadata_of_a_wrong_type(lane: Lane, entry: tuple[str, str]) -> None:
    with pytest.raises(TypeError):
        await lane.execute("plain", metadata=(entry,))


async def test_metadata_entries_must_be_pairs(lane: Lane) -> None:
    with pytest.raises(ValueError, match="unpack"):
        lane.execute("plain", metadata=(("alone",),))


async def test_metadata_of_a_wrong_type_or_illegal_on_the_servers_side(lane: Lane) -> None:
    error = await failure_of(lane.execute("bad_trailing"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Invalid metadata")
    assert lane.notes.lines.count("wrong type") == 5
    error = await failure_of(lane.execute("bad_initial"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Invalid metadata")
    await lane.notes.wait_for("refused")


async def test_initial_metadata_can_be_sent_once(lane: Lane) -> None:
    call = lane.execute("initial_twice")
    await call
    assert tuple(await call.initial_metadata()) == (("once", "1"),)
    await lane.notes.wait_for("Send initial metadata failed: already sent")


async def test_a_timeout_of_a_wrong_type(lane: Lane) -> None:
    with pytest.raises(TypeError):
        lane.execute("plain", timeout="soon")
