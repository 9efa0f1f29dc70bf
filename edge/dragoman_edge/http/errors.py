"""What can be wrong with the HTTP of a request."""

from __future__ import annotations


class HttpError(Exception):
    """A request that is no good HTTP, or more of it than is taken.

    Attributes:
        message: What is wrong, for people.
        status: The HTTP status that says so.
        code: The same, for programs.
    """

    def __init__(self, message: str, *, status: int = 400, code: str = "invalid_http") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


class BodyError(HttpError):
    """A body that cannot be read to its end."""
