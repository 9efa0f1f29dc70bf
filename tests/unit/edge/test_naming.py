"""How errors speak of fields in a dialect's words."""

from __future__ import annotations

import pytest

from dragoman_edge.dialects.naming import renamed


@pytest.mark.parametrize(
    ("message", "field", "name", "told"),
    [
        ("`spec.chat.sampling.choice_count` is 0", "spec.chat.sampling.choice_count", "n", "`n` is 0"),
        ("sampling.min_p cannot be handed over", "spec.chat.sampling.min_p", "min_p", "min_p cannot be handed over"),
        (
            "the model does not know `sampling.seed`",
            "spec.chat.sampling.seed",
            "seed",
            "the model does not know `seed`",
        ),
        ("user cannot be handed over", "spec.chat.user", "user", "user cannot be handed over"),
        ("`spec.chat.user` is too long", "spec.chat.user", "user", "`user` is too long"),
        (
            "web_search_options_json is new",
            "spec.chat.web_search_options_json",
            "web_search_options",
            "web_search_options is new",
        ),
        (
            "reasoning_budget_tokens is new",
            "spec.chat.reasoning_budget_tokens",
            "a.thinking_budget",
            "a.thinking_budget is new",
        ),
        ("all messages are wrong", "spec.chat.messages", "contents", "all messages are wrong"),
        ("`spec.chat.messages` is empty", "spec.chat.messages", "contents", "`contents` is empty"),
        (
            "messages[1].parts[0].image is no image",
            "spec.chat.messages[1].parts[0].image",
            "contents",
            "contents is no image",
        ),
        ("my_store_json is", "spec.chat.store_json", "store", "my_store_json is"),
        ("store_json2 is", "spec.chat.store_json", "store", "store_json2 is"),
        ("`inputs[0].text` is empty", "inputs[0].text", "input[0]", "`input[0]` is empty"),
        ("`spec.labels` is full", "spec.labels", "", "`spec.labels` is full"),
        ("the path x_y", "spec.chat.x_y", r"a\1", r"the path a\1"),
    ],
)
def test_the_names_of_a_dialect(message: str, field: str, name: str, told: str) -> None:
    assert renamed(message, field, name) == told
