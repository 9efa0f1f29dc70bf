from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.titles import MAX_MADE_CHARS, title_from
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_USER, Message, Part, RefusalPart, TextPart
from dragoman_server.conversations.titles import (
    first_title,
    text_of,
    title_of_answer,
    title_request,
)


def user(*texts: str) -> Message:
    return Message(role=ROLE_USER, parts=[Part(text=TextPart(text=text)) for text in texts])


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("What is rust?", "What is rust?"),
        ("  two\n\nlines\tand a tab ", "two lines and a tab"),
        ("", ""),
        ("\u200b\x00", ""),
        ("word " * 30, " ".join(["word"] * 12) + "…"),
        ("x" * 100, "x" * 59 + "…"),
        (
            "A sentence with a comma just where a title has to be cut, here",
            "A sentence with a comma just where a title has to be cut…",
        ),
    ],
)
def test_titles_from_texts(text: str, title: str) -> None:
    assert title_from(text) == title


@given(st.text())
def test_any_text_gives_one_short_line(text: str) -> None:
    title = title_from(text)
    assert len(title) <= MAX_MADE_CHARS
    assert title == title.strip()
    assert len(title.splitlines()) <= 1


def test_the_first_user_message_with_a_text_counts() -> None:
    answer = Message(role=ROLE_ASSISTANT, parts=[Part(text=TextPart(text="no"))])
    assert first_title([answer, user(), user("yes", "and more"), user("later")]) == "yes and more"
    assert first_title([answer]) == ""


def test_refusals_are_words_too() -> None:
    message = Message(parts=[Part(text=TextPart(text="a")), Part(refusal=RefusalPart(text="b"))])
    assert text_of(message) == "a\nb"


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ('"Rust basics."', "Rust basics"),
        ("\n\n**Rust basics**\nSecond line", "Rust basics"),
        ("", ""),
        ('""', ""),
    ],
)
def test_titles_of_answers(answer: str, title: str) -> None:
    assert title_of_answer(answer) == title


def test_what_a_model_is_asked() -> None:
    chat = title_request("m", [user("x" * 5000), user("short")])
    assert chat.model == "m"
    assert len(chat.messages) == 2
    assert chat.messages[1].parts[0].text.text == "x" * 2000 + "\n\nshort"
