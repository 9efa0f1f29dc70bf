from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman.v1.event_pb2 import CancelReason
from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import DisconnectPolicy, Durability, Run, RunSpec
from dragoman_server.caller import Caller
from dragoman_server.errors import DragomanError, EventsEvicted, IdempotencyConflict, InvalidRequest, NotFound
from dragoman_server.providers.base import GenerationRequest, GenerationSink
from dragoman_server.providers.scripted import ScriptedProvider
from dragoman_server.runs.fold import fold
from dragoman_server.runs.run import LiveRun
from dragoman_server.runs.service import Runs, StartOptions
from dragoman_server.settings import LimitSettings, RunSettings
from tests.support.runs import CALLER, STRANGER, Collector, chat_spec, engine

Policy = DisconnectPolicy
USER = Caller("default", "", user_id="user_1")
HANGING: dict[str, Any] = {"text": ["a", "b"], "hang": True}


def start(runs: Runs, spec: RunSpec, request_id: str = "", method: str = "StreamRun", **options: Any) -> LiveRun:
    return runs.start(CALLER, spec, StartOptions(method, request_id, **options))


async def finished(run: LiveRun) -> Run:
    async with asyncio.timeout(10):
        await run.wait_ended()
    return run.record()


async def until_said(run: LiveRun) -> None:
    async with asyncio.timeout(10):
        while not run.log.fold.has_content:
            await asyncio.sleep(0.001)


def said(record: Run, choice: int = 0) -> str:
    return "".join(part.text.text for part in record.choices[choice].message.parts)


async def test_a_run_tells_its_whole_story() -> None:
    async with engine() as runs:
        watcher = Collector()
        run = start(runs, chat_spec(text=["Hel", "lo"]))
        run.add_caller()
        run.watch(watcher, 0)
        record = await finished(run)
        assert watcher.kinds == [
            "run_started",
            "step_started",
            "text_delta",
            "text_delta",
            "choice_finished",
            "usage_reported",
            "step_completed",
            "run_completed",
        ]
        assert watcher.sequences == list(range(1, 9))
        assert said(record) == "Hello"
        assert record.id == run.id
        assert record.state == Run.STATE_COMPLETED
        assert record.model == "demo/echo"
        assert record.provider == "demo"
        assert record.usage.output_tokens == 2
        assert record.create_time.ToNanoseconds() <= record.end_time.ToNanoseconds()


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "text": st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=4),
            "reasoning": st.lists(st.sampled_from(["hm", "so"]), max_size=2),
            "tool_calls": st.lists(st.just({"name": "f", "arguments": ["{", "}"]}), max_size=1),
            "usage": st.sampled_from([None, False, {"input_tokens": 3, "output_tokens": 9}]),
            "batch": st.integers(1, 9),
        }
    )
)
async def test_the_record_is_the_same_whether_somebody_watches_or_not(script: dict[str, Any]) -> None:
    async with engine() as runs:
        unseen = start(runs, chat_spec(**script), method="ExecuteRun", incremental=False)
        seen, watcher = start(runs, chat_spec(**script), method="ExecuteRun", incremental=False), Collector()
        for run in (unseen, seen):
            run.add_caller()
        seen.watch(watcher, 0)
        records = []
        for run in (unseen, seen):
            record = Run()
            record.CopyFrom(await finished(run))
            assert record.end_time.ToNanoseconds() >= record.create_time.ToNanoseconds() > 0
            assert runs.get(CALLER, run.id).record() == run.record()
            assert run.response_size is None or run.response().ByteSize() <= run.response_size
            for field in ("id", "create_time", "end_time", "first_available_sequence"):
                record.ClearField(field)
            records.append(record)
        assert unseen.response_size is not None
        assert records[0] == records[1]
        told = fold(watcher.events)
        told.ClearField("end_time")
        assert told == records[1]


async def test_the_plain_answer_is_the_fold_of_the_stream() -> None:
    async with engine() as runs:
        script: dict[str, Any] = {
            "text": ["a", "b"],
            "reasoning": ["hm"],
            "tool_calls": [{"name": "f", "arguments": ["{", "}"]}],
        }
        plain = await finished(start(runs, chat_spec(**script), incremental=False))
        streamed = await finished(start(runs, chat_spec(**script)))
        assert plain.choices == streamed.choices
        assert plain.usage == streamed.usage


async def test_choices_fan_out_and_the_prompt_counts_once() -> None:
    async with engine() as runs:
        one = chat_spec("some words here")
        three = chat_spec("some words here")
        three.chat.sampling.choice_count = 3
        single, triple = await finished(start(runs, one)), await finished(start(runs, three))
        assert [choice.index for choice in triple.choices] == [0, 1, 2]
        assert {said(triple, index) for index in range(3)} == {said(single)}
        assert triple.usage.input_tokens == single.usage.input_tokens
        assert triple.usage.output_tokens == 3 * single.usage.output_tokens


async def test_one_failed_choice_fails_the_run() -> None:
    async with engine() as runs:
        spec = chat_spec(text=["a", "b", "c"], delay=0.001, fail_after=1)
        spec.chat.sampling.choice_count = 2
        record = await finished(start(runs, spec))
        assert record.state == Run.STATE_FAILED
        assert record.failure.reason == Reason.PROVIDER_FAILED


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"fail_before": {"reason": "PROVIDER_RATE_LIMITED", "retry_after": 3}}, Reason.PROVIDER_RATE_LIMITED),
        ({"text": ["a", "b"], "fail_after": 1}, Reason.PROVIDER_FAILED),
        ({"text": ["a", "b"], "drop_after": 1}, Reason.PROVIDER_PROTOCOL),
    ],
)
async def test_a_failure_is_the_end_and_says_why(script: dict[str, Any], reason: Reason) -> None:
    async with engine() as runs:
        watcher = Collector()
        run = start(runs, chat_spec(**script))
        run.add_caller()
        run.watch(watcher, 0)
        record = await finished(run)
        assert record.state == Run.STATE_FAILED
        assert record.failure.reason == reason
        assert watcher.kinds[-1] == "run_failed"
        assert watcher.kinds.count("run_failed") == 1


async def test_a_choice_that_is_refused_takes_the_others_back() -> None:
    class Refusing(ScriptedProvider):
        def start(self, request: GenerationRequest, sink: GenerationSink) -> Any:
            if request.choice_index == 2:
                raise RuntimeError("a fault of the provider")
            started.append(super().start(request, sink))
            return started[-1]

    started: list[Any] = []
    provider = Refusing("demo")
    async with engine(provider=provider) as runs:
        spec = chat_spec(**HANGING)
        spec.chat.sampling.choice_count = 3
        with pytest.raises(RuntimeError):
            start(runs, spec)
        await asyncio.sleep(0.01)
        assert len(started) == 2
        assert not provider._running
        assert runs.active == 0


async def test_a_provider_without_usage_is_estimated() -> None:
    async with engine() as runs:
        record = await finished(start(runs, chat_spec(text=["four", "more"], usage=False)))
        assert record.usage.estimated
        assert record.usage.output_tokens == 2


async def test_usage_of_a_run_that_was_broken_off_is_what_was_told_and_a_guess_of_the_rest() -> None:
    scripts: list[dict[str, Any]] = [{"hang": True}, {"fail_after": 1}]
    for ending in scripts:
        async with engine() as runs:
            spec = chat_spec(text=["four and more"], usage={"input_tokens": 1234, "output_tokens": 77}, **ending)
            spec.chat.sampling.choice_count = 2
            run = start(runs, spec)
            await until_said(run)
            run.cancel(CancelReason.CANCEL_REASON_REQUESTED)
            usage = (await finished(run)).usage
            assert usage.input_tokens == 1234  # the prompt counts once
            said = sum(len(part.text.text) for choice in run.record().choices for part in choice.message.parts)
            assert said
            assert usage.output_tokens == 4 * (said // len("four and more"))
            assert usage.estimated


async def test_what_was_told_of_a_run_that_was_broken_off_is_no_estimate() -> None:
    async with engine() as runs:
        run = start(runs, chat_spec(text=["a long text that counts as one token"], hang=True))
        await until_said(run)
        run.cancel(CancelReason.CANCEL_REASON_REQUESTED)
        usage = run.record().usage
        assert usage.output_tokens == 1
        assert not usage.estimated


# ---------------------------------------------------------------------- refusals


def refused_specs() -> list[tuple[str, RunSpec]]:
    cases: list[tuple[str, RunSpec]] = [("spec.chat", RunSpec())]

    def case(field: str, **values: Any) -> RunSpec:
        spec = chat_spec()
        cases.append((field, spec))
        for name, value in values.items():
            setattr(spec, name, value)
        return spec

    spec = case("spec.chat.messages")
    spec.chat.ClearField("messages")
    case("spec.chat.messages[0].role").chat.messages[0].role = Role.ROLE_UNSPECIFIED
    case("spec.chat.messages[0].role").chat.messages[0].role = cast("Role", 99)
    case("spec.chat.messages[0].parts[1]").chat.messages[0].parts.add()
    case("spec.chat.messages[0].parts[1]").chat.messages[0].parts.add().tool_call.id = "x"
    case("spec.chat.messages[0].parts[1].image").chat.messages[0].parts.add().image.SetInParent()
    case("spec.chat.sampling.temperature").chat.sampling.temperature = 2.1
    case("spec.chat.sampling.temperature").chat.sampling.temperature = float("nan")
    case("spec.chat.sampling.choice_count").chat.sampling.choice_count = 0
    case("spec.chat.sampling.choice_count").chat.sampling.choice_count = 129
    case("spec.chat.sampling.stop").chat.sampling.stop.append("")
    case("spec.chat.sampling.top_logprobs").chat.sampling.top_logprobs = 2
    case("spec.chat.sampling.logit_bias").chat.sampling.logit_bias[1] = 101
    case("spec.chat.tools[0].function.name").chat.tools.add().function.name = "no spaces"
    case("spec.chat.tool_choice.tool.name").chat.tool_choice.tool.name = "f"
    spec = case("spec.chat.tools[1].function.name")
    for _ in range(2):
        spec.chat.tools.add().function.name = "twice"
    spec = case("spec.chat.tools[0].function.parameters_json")
    tool = spec.chat.tools.add().function
    tool.name, tool.parameters_json = "f", "[1"
    schema = case("spec.chat.response_format.json_schema.schema_json").chat.response_format.json_schema
    schema.name, schema.schema_json = "s", "3"
    case("spec.detach_ttl", disconnect_policy=Policy.DISCONNECT_POLICY_DETACH_FOR)
    case("spec.detach_ttl").detach_ttl.seconds = 5
    case("spec.timeout").timeout.seconds = -1
    case("spec.labels").labels[""] = "x"
    case("spec.durability", durability=Durability.DURABILITY_DURABLE)
    case("spec.chat.chat_template_kwargs_json").chat.chat_template_kwargs_json = "{"
    return cases


@pytest.mark.parametrize(("field", "spec"), refused_specs())
async def test_a_broken_rule_is_refused_by_name(field: str, spec: RunSpec) -> None:
    async with engine() as runs:
        with pytest.raises(DragomanError) as caught:
            start(runs, spec)
        assert caught.value.field == field
        assert field in str(caught.value)
        assert runs.active == 0


async def test_an_unknown_model_is_not_found() -> None:
    async with engine() as runs:
        with pytest.raises(NotFound) as caught:
            start(runs, chat_spec(model="nobody/knows"))
        assert caught.value.reason == Reason.MODEL_NOT_FOUND


async def test_there_is_a_bound_on_active_runs() -> None:
    async with engine(limits=LimitSettings(max_active_runs=2)) as runs:
        for _ in range(2):
            start(runs, chat_spec(**HANGING))
        with pytest.raises(DragomanError) as caught:
            start(runs, chat_spec())
        assert caught.value.reason == Reason.OVERLOADED
        assert caught.value.retryable


# ---------------------------------------------------------------------- disconnecting


async def test_cancel_means_when_the_last_caller_has_gone() -> None:
    async with engine() as runs:
        watcher = Collector()
        run = start(runs, chat_spec(**HANGING))
        run.add_caller()
        run.add_caller()
        run.watch(watcher, 0)
        await until_said(run)
        run.remove_caller()
        assert not run.ended
        run.remove_caller()
        record = run.record()
        assert record.state == Run.STATE_CANCELLED
        assert record.cancel_reason == CancelReason.CANCEL_REASON_DISCONNECTED
        assert watcher.kinds[-2:] == ["usage_reported", "run_cancelled"]


async def test_watchers_neither_keep_a_run_alive_nor_end_it() -> None:
    async with engine() as runs:
        run = start(runs, chat_spec(**HANGING))
        run.add_caller()
        subscription = run.watch(Collector(), 0)
        run.unwatch(subscription)
        assert not run.ended
        run.watch(Collector(), 0)
        run.remove_caller()
        assert run.ended


async def test_detach_goes_on_to_the_end() -> None:
    async with engine() as runs:
        spec = chat_spec(text=["a"] * 5, delay=0.002)
        spec.disconnect_policy = Policy.DISCONNECT_POLICY_DETACH
        run = start(runs, spec)
        run.add_caller()
        run.remove_caller()
        assert said(await finished(run)) == "aaaaa"


async def test_detach_for_waits_for_a_caller_to_come_back() -> None:
    async with engine() as runs:
        spec = chat_spec(**HANGING)
        spec.disconnect_policy = Policy.DISCONNECT_POLICY_DETACH_FOR
        spec.detach_ttl.FromMilliseconds(50)
        run = start(runs, spec)
        run.add_caller()
        run.remove_caller()
        run.add_caller()
        await asyncio.sleep(0.1)
        assert not run.ended
        run.remove_caller()
        record = await finished(run)
        assert record.cancel_reason == CancelReason.CANCEL_REASON_DISCONNECTED


async def test_a_started_run_detaches_and_cannot_be_bound_to_a_caller() -> None:
    async with engine() as runs:
        detach = Policy.DISCONNECT_POLICY_DETACH
        run = start(runs, chat_spec("hi"), method="StartRun", default_policy=detach)
        assert (await finished(run)).state == Run.STATE_COMPLETED
        bound = chat_spec("hi")
        bound.disconnect_policy = Policy.DISCONNECT_POLICY_CANCEL
        with pytest.raises(InvalidRequest):
            start(runs, bound, method="StartRun", default_policy=detach)


# ---------------------------------------------------------------------- idempotency


async def test_a_duplicate_attaches_to_the_first_run() -> None:
    async with engine() as runs:
        first = start(runs, chat_spec(text=["a", "b"], delay=0.002), "key-1")
        second = start(runs, chat_spec(text=["a", "b"], delay=0.002), "key-1")
        assert first is second
        await finished(first)
        watcher = Collector()
        start(runs, chat_spec(text=["a", "b"], delay=0.002), "key-1").watch(watcher, 0)
        assert watcher.text == "ab"
        assert watcher.closed == 1


async def test_another_spec_under_the_same_id_is_a_conflict() -> None:
    async with engine() as runs:
        start(runs, chat_spec("one"), "key-1")
        with pytest.raises(IdempotencyConflict):
            start(runs, chat_spec("two"), "key-1")


async def test_request_ids_are_scoped_by_account_and_method() -> None:
    async with engine() as runs:
        first = start(runs, chat_spec("one"), "key-1")
        other_method = start(runs, chat_spec("two"), "key-1", method="ExecuteRun")
        other_account = runs.start(STRANGER, chat_spec("three"), StartOptions("StreamRun", "key-1"))
        other_user = runs.start(USER, chat_spec("four"), StartOptions("StreamRun", "key-1"))
        assert len({first.id, other_method.id, other_account.id, other_user.id}) == 4


async def test_members_see_their_own_runs_and_administrators_all_of_the_account() -> None:
    options = StartOptions("StreamRun")
    admin = Caller("default", "key_3", KeyRole.KEY_ROLE_ADMIN, user_id="user_2")
    async with engine() as runs:
        mine, theirs = (runs.start(caller, chat_spec("one"), options) for caller in (CALLER, USER))
        for _ in range(2):  # while they go on, and when only their records are left
            assert [run.id for run in runs.list(CALLER, 10)] == [mine.id]
            assert [run.id for run in runs.list(USER, 10)] == [theirs.id]
            assert {run.id for run in runs.list(admin, 10)} == {mine.id, theirs.id}
            assert runs.list(STRANGER, 10) == []
            assert runs.get(USER, theirs.id).id == theirs.id
            with pytest.raises(NotFound):
                runs.get(USER, mine.id)
            await asyncio.gather(finished(mine), finished(theirs))


async def test_a_request_id_makes_the_run_outlive_its_caller_for_a_while() -> None:
    async with engine(RunSettings(detach_ttl=0.05)) as runs:
        run = start(runs, chat_spec(**HANGING), "key-1")
        run.add_caller()
        run.remove_caller()
        assert not run.ended
        assert (await finished(run)).state == Run.STATE_CANCELLED
        assert start(runs, chat_spec("something else"), "key-1") is not run, "the id is free again"


async def test_ids_of_runs_that_failed_unseen_are_free_again_but_not_of_those_that_spoke() -> None:
    async with engine() as runs:
        unseen = start(runs, chat_spec(fail_before={}), "key-1")
        await finished(unseen)
        assert start(runs, chat_spec(fail_before={}), "key-1") is not unseen
        seen = start(runs, chat_spec(text=["a", "b"], fail_after=1), "key-2")
        await finished(seen)
        assert start(runs, chat_spec(text=["a", "b"], fail_after=1), "key-2") is seen


async def test_a_refused_request_never_takes_an_id() -> None:
    async with engine() as runs:
        with pytest.raises(DragomanError):
            start(runs, chat_spec("SCRIPT {"), "key-1")
        with pytest.raises(NotFound):
            start(runs, chat_spec(model="no/model"), "key-1")
        assert (await finished(start(runs, chat_spec("fine"), "key-1"))).state == Run.STATE_COMPLETED


# ---------------------------------------------------------------------- deadlines and cancelling


async def test_a_deadline_fails_the_run() -> None:
    async with engine() as runs:
        timed = chat_spec(**HANGING)
        timed.timeout.FromMilliseconds(30)
        for run in (start(runs, chat_spec(**HANGING), time_remaining=0.03), start(runs, timed)):
            record = await finished(run)
            assert record.failure.reason == Reason.DEADLINE_EXCEEDED
            assert said(record) == "ab"


async def test_leaving_at_the_deadline_is_the_deadline() -> None:
    async with engine() as runs:
        run = start(runs, chat_spec(**HANGING), time_remaining=0.0)
        run.add_caller()
        run.remove_caller()
        assert run.record().failure.reason == Reason.DEADLINE_EXCEEDED


async def test_cancelling_is_repeatable_and_leaves_ended_runs_alone() -> None:
    async with engine() as runs:
        run = start(runs, chat_spec(**HANGING))
        await until_said(run)
        run.cancel(CancelReason.CANCEL_REASON_REQUESTED)
        last = run.log.last_sequence
        run.cancel(CancelReason.CANCEL_REASON_REQUESTED)
        assert run.log.last_sequence == last
        assert run.record().cancel_reason == CancelReason.CANCEL_REASON_REQUESTED
        done = start(runs, chat_spec("hi"))
        await finished(done)
        done.cancel(CancelReason.CANCEL_REASON_REQUESTED)
        assert done.record().state == Run.STATE_COMPLETED


# ---------------------------------------------------------------------- keeping


async def test_a_foreign_run_does_not_exist() -> None:
    async with engine() as runs:
        run = start(runs, chat_spec("hi"))
        assert runs.get(CALLER, run.id) is run
        with pytest.raises(NotFound):
            runs.get(STRANGER, run.id)
        assert runs.list(STRANGER, 10) == []


async def test_runs_are_listed_newest_first_and_in_pages() -> None:
    async with engine() as runs:
        ids = [start(runs, chat_spec(str(number))).id for number in range(5)]
        page = runs.list(CALLER, 3)
        assert len(page) == 3
        rest = runs.list(CALLER, 3, page[-1].id)
        assert [run.id for run in page + rest] == ids[::-1]


async def test_only_the_record_of_a_cancel_run_without_id_outlives_its_readers() -> None:
    async with engine() as runs:
        run = start(runs, chat_spec("hi"))
        run.add_caller()
        watcher = Collector()
        run.watch(watcher, 0)
        record = await finished(run)
        assert watcher.closed == 1
        assert said(runs.get(CALLER, run.id).record()) == said(record) != ""
        assert record.first_available_sequence == record.last_sequence + 1
        with pytest.raises(EventsEvicted):
            run.watch(Collector(), 0)


async def test_finished_runs_are_forgotten_after_a_while() -> None:
    async with engine(RunSettings(retention=0.1)) as runs:
        run = start(runs, chat_spec("hi"), "key-1")
        await finished(run)
        assert runs.get(CALLER, run.id) is run
        async with asyncio.timeout(10):
            while runs.list(CALLER, 1):
                await asyncio.sleep(0.05)
        assert runs.kept_bytes == 0
        assert start(runs, chat_spec("other"), "key-1") is not run


async def test_the_oldest_finished_runs_go_when_the_bytes_are_used_up() -> None:
    async with engine(RunSettings(total_bytes=60_000)) as runs:
        ids = []
        for number in range(12):
            run = start(runs, chat_spec(text=["x" * 1000] * 5), f"key-{number}")
            await finished(run)
            ids.append(run.id)
        kept = [run.id for run in runs.list(CALLER, 100)]
        assert runs.kept_bytes <= 60_000
        assert 1 <= len(kept) < 12
        assert kept == ids[::-1][: len(kept)]


# ---------------------------------------------------------------------- slow readers


async def test_a_slow_sole_caller_pauses_its_run_and_loses_nothing() -> None:
    async with engine() as runs:
        run = start(runs, chat_spec(text=["x"], repeat=200))
        run.add_caller()
        watcher = Collector()
        subscription = run.watch(watcher, 0)
        await until_said(run)
        run.hold(subscription)
        await asyncio.sleep(0.05)
        stopped_at = run.log.last_sequence
        await asyncio.sleep(0.05)
        assert run.log.last_sequence == stopped_at
        assert not run.ended
        run.release(subscription)
        await finished(run)
        assert watcher.text == "x" * 200


async def test_a_slow_caller_of_a_detached_run_does_not_pause_it() -> None:
    async with engine() as runs:
        spec = chat_spec(text=["x"], repeat=50)
        spec.disconnect_policy = Policy.DISCONNECT_POLICY_DETACH
        run = start(runs, spec)
        run.add_caller()
        run.hold(run.watch(Collector(), 0))
        assert (await finished(run)).state == Run.STATE_COMPLETED


async def test_a_second_watcher_ends_the_pause() -> None:
    async with engine() as runs:
        run = start(runs, chat_spec(text=["x"], repeat=50))
        run.add_caller()
        run.hold(run.watch(Collector(), 0))
        run.watch(Collector(), 0)
        assert (await finished(run)).state == Run.STATE_COMPLETED


async def test_a_reader_that_takes_nothing_for_too_long_is_dropped() -> None:
    async with engine(RunSettings(slow_reader_timeout=0.05)) as runs:
        run = start(runs, chat_spec(text=["x"], delay=0.001, repeat=10_000))
        run.add_caller()
        watcher = Collector()
        run.hold(run.watch(watcher, 0))
        async with asyncio.timeout(10):
            while not watcher.closed:
                await asyncio.sleep(0.01)
        assert watcher.error is not None
        assert watcher.error.reason == Reason.WATCHER_TOO_SLOW
        run.remove_caller()
        assert run.record().state == Run.STATE_CANCELLED


async def test_events_that_a_slow_reader_still_wants_are_kept_beyond_the_end() -> None:
    async with engine() as runs:
        run = start(runs, chat_spec(text=["a", "b", "c"], batch=10))
        run.add_caller()
        watcher = Collector()
        subscription = run.watch(watcher, 0)
        run.watch(Collector(), 0)  # so that the hold does not pause the run
        run.hold(subscription)
        await finished(run)
        assert watcher.text == ""
        run.release(subscription)
        assert watcher.text == "abc"
        assert watcher.closed == 1


async def test_draining_refuses_new_runs_and_cancels_what_does_not_end() -> None:
    async with engine() as runs:
        quick = start(runs, chat_spec(text=["a"] * 3, delay=0.01))
        stuck = start(runs, chat_spec(**HANGING))
        await runs.drain(0.3)
        assert quick.record().state == Run.STATE_COMPLETED
        assert stuck.record().cancel_reason == CancelReason.CANCEL_REASON_SHUTDOWN
        with pytest.raises(DragomanError) as caught:
            start(runs, chat_spec("late"))
        assert caught.value.reason == Reason.SHUTTING_DOWN
