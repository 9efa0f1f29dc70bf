"""Errors, as the clients of the proxies expect them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from dragoman.reasons import Reason
from dragoman_edge.dialects.dialect import ErrorAnswer
from dragoman_edge.dialects.gemini import errors as gemini
from dragoman_edge.dialects.openai import errors as openai

if TYPE_CHECKING:
    from dragoman_edge.errors import EdgeError

CODES = frozenset({"invalid_request", "invalid_messages", *(row.code for row in openai.TABLE.values() if row.code)})


def render_openai_error(error: EdgeError) -> ErrorAnswer:
    """Puts an error into the words of the OpenAI proxy."""
    answer = openai.render_error(error)
    return ErrorAnswer(answer.status, openai_error_body(error), answer.headers)


def openai_error_body(error: EdgeError) -> bytes:
    """Returns the JSON object that describes an error: message, type and code, and the parameter if there is one."""
    param, message = openai.param_and_message(error)
    body = {"message": message, "type": openai.TABLE[error.reason].type, "code": _code(error, param)}
    if param and error.reason is not Reason.UPSTREAM_NOT_ALLOWED:  # what is wrong then is in no parameter
        body["param"] = param
    return orjson.dumps({"error": body})


def render_gemini_error(error: EdgeError) -> ErrorAnswer:
    """Puts an error into the words of the Gemini proxy: Google's if the client can mend it, else OpenAI's."""
    answer = gemini.render_error(error)
    if answer.status < 500:
        return answer
    return ErrorAnswer(answer.status, openai_error_body(error), answer.headers)


def _code(error: EdgeError, param: str | None) -> str | None:
    if error.reason is Reason.INVALID_REQUEST and error.status in (None, 400):
        return "invalid_messages" if param and param.startswith("messages") else "invalid_request"
    return error.code or openai.TABLE[error.reason].code
