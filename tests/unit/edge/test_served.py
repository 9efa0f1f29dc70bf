from __future__ import annotations

from dragoman.v1.run_pb2 import Run
from dragoman.v1.run_service_pb2 import StreamRunResponse
from dragoman_edge.cors import EXPOSED
from dragoman_edge.dialects.openai.errors import param_of_field
from dragoman_edge.served import HEADERS, tell_run, tell_start


def batch(*attempts: tuple[str, int, list[str]], text: bool = False) -> StreamRunResponse:
    """Returns a batch in which a run starts, or goes on to further attempts: provider, number, what is left out."""
    made = StreamRunResponse()
    for provider, attempt, dropped in attempts:
        step = made.events.add().step_started
        step.provider, step.upstream_model, step.attempt = provider, f"model of {provider}", attempt
        step.dropped_params.extend(dropped)
    if text:
        made.events.add().text_delta.text = "x"
    return made


def test_a_run_tells_who_served_it() -> None:
    run = Run(upstream_model="m", provider="p", attempts=2, dropped_params=["sampling.top_k", "verbosity"])
    run.emulated_features.append("response_format.json_schema")
    headers: dict[str, str] = {}
    tell_run(headers, run, param_of_field)
    assert headers == {
        "x-dragoman-model": "m",
        "x-dragoman-provider": "p",
        "x-dragoman-attempts": "2",
        "x-dragoman-emulated": "response_format.json_schema",
        "x-dragoman-dropped-params": "top_k, verbosity",
    }


def test_a_run_that_nobody_served_tells_nothing() -> None:
    headers: dict[str, str] = {}
    tell_run(headers, Run(), param_of_field)
    assert headers == {}


def test_the_last_attempt_before_the_content_counts() -> None:
    headers: dict[str, str] = {}
    tell_start(headers, batch(("a", 1, ["sampling.seed"])), param_of_field)
    assert headers["x-dragoman-dropped-params"] == "seed"
    tell_start(headers, batch(("b", 2, [])), param_of_field)
    tell_start(headers, batch(text=True), param_of_field)
    assert headers == {
        "x-dragoman-model": "model of b",
        "x-dragoman-provider": "b",
        "x-dragoman-attempts": "2",
    }


def test_another_choice_does_not_take_attempts_back() -> None:
    headers: dict[str, str] = {}
    tell_start(headers, batch(("a", 3, []), ("b", 1, [])), param_of_field)
    assert (headers["x-dragoman-provider"], headers["x-dragoman-attempts"]) == ("b", "3")


def test_names_cannot_add_headers() -> None:
    headers: dict[str, str] = {}
    tell_run(headers, Run(upstream_model="m\r\nSet-Cookie: a=b é", provider="p", attempts=1), param_of_field)
    assert headers["x-dragoman-model"] == "m%0D%0ASet-Cookie:%20a%3Db%20%C3%A9"


def test_web_pages_may_read_them() -> None:
    assert set(HEADERS) <= set(EXPOSED.split(", "))
