"""Checks sampling values against the rules that the contract states and types cannot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dragoman.v1.sampling_pb2 import Sampling
from dragoman_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import FieldDescriptor

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (0, 2**31 - 1),
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0, 100),
    "max_output_tokens": (1, 2**31 - 1),
    "top_logprobs": (0, MAX_TOP_LOGPROBS),
    "choice_count": (1, MAX_CHOICES),
}
"""Range of each number of the sampling, both ends included."""

_BOUNDS = {Sampling.DESCRIPTOR.fields_by_name[name]: bounds for name, bounds in RANGES.items()}
_TOP_LOGPROBS = Sampling.DESCRIPTOR.fields_by_name["top_logprobs"]


def check_sampling(sampling: Sampling, path: str = "spec.chat.sampling") -> None:
    """Checks sampling values.

    Args:
        sampling: The values.
        path: Where they are.

    Raises:
        InvalidRequest: If one breaks a rule; `field` names which.
    """
    check_fields(sampling.ListFields(), path)


def check_fields(fields: Sequence[tuple[FieldDescriptor, Any]], path: str = "spec.chat.sampling") -> None:
    """Does what `check_sampling` says, for the fields that are set, by their numbers."""
    logprobs = False
    for descriptor, value in fields:
        bounds = _BOUNDS.get(descriptor)
        if bounds is not None and bounds[0] <= value <= bounds[1] and descriptor is not _TOP_LOGPROBS:
            continue
        name = descriptor.name
        if bounds is not None:
            if not bounds[0] <= value <= bounds[1]:  # NaN fails too
                text = f"is {value:g}, but must be between {bounds[0]:g} and {bounds[1]:g}"
                raise _invalid(f"{path}.{name}", text)
            if name == "top_logprobs" and not logprobs:  # whose number comes before
                raise _invalid(f"{path}.top_logprobs", "needs `logprobs`")
        elif name == "logprobs":
            logprobs = value
        elif name == "stop":
            if len(value) > MAX_STOPS or not all(value):
                raise _invalid(f"{path}.stop", f"must be at most {MAX_STOPS} texts, none of them empty")
        elif name == "logit_bias":
            for token, bias in value.items():
                if not (math.isfinite(bias) and -100 <= bias <= 100) or token < 0:
                    raise _invalid(f"{path}.logit_bias", "must map token ids to values between -100 and 100")


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` {problem}", field=field)
