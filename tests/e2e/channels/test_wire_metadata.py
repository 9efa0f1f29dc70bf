from __future__ import annotations

import string
from itertools import groupby

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.inprocess.metadata import InvalidMetadata, checked, delivered, to_wire

KEYS = st.text(string.ascii_lowercase + string.digits + "_-.", min_size=1, max_size=6).map("k".__add__)
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
ENTRIES = st.one_of(
    st.tuples(KEYS.filter(lambda key: not key.endswith("-bin")), PRINTABLE),
    st.tuples(KEYS.map("{}-bin".format), st.binary(max_size=20)),
)


@given(st.lists(ENTRIES, max_size=12))
def test_legal_metadata_is_kept_with_equal_keys_side_by_side(entries: list[tuple[str, str | bytes]]) -> None:
    wire = to_wire(entries)
    assert tuple(wire) == tuple(grpc.aio.Metadata(*entries))
    keys = [key for key, _ in groupby(entry.key for entry in wire)]
    assert len(keys) == len(set(keys))
    for key in keys:
        assert [entry.value for entry in wire if entry.key == key] == [value for name, value in entries if name == key]


@given(st.text(min_size=1, max_size=8), st.text(max_size=8))
def test_what_http2_cannot_carry_is_refused(key: str, value: str) -> None:
    legal_key = set(key) <= set(string.ascii_lowercase + string.digits + "_-.")
    legal_value = all(" " <= character <= "~" for character in value)
    if key.endswith("-bin"):
        return
    if legal_key and legal_value:
        to_wire([(key, value)])
    else:
        with pytest.raises(InvalidMetadata):
            to_wire([(key, value)])


USUAL = st.tuples(st.sampled_from(["authorization", "x-request-id", "x-other"]), st.one_of(PRINTABLE, st.text()))


@given(st.one_of(st.lists(ENTRIES, max_size=4), st.lists(USUAL, max_size=3)).map(tuple))
def test_usual_metadata_that_are_left_as_they_are_are_delivered_alike(
    entries: tuple[tuple[str, str | bytes], ...],
) -> None:
    try:
        expected = to_wire(entries)
    except InvalidMetadata:
        with pytest.raises(InvalidMetadata):
            checked(entries)
        return
    wire = delivered(checked(entries))
    assert wire == expected
    assert [(entry.key, entry.value) for entry in wire] == [(entry.key, entry.value) for entry in expected]


@pytest.mark.parametrize("entry", [("authorization", 5), ("authorization", None), (5, "v"), ([], "v")])
def test_usual_metadata_of_a_wrong_type(entry: tuple[str, str]) -> None:
    try:
        expected = to_wire((entry,))
    except TypeError:
        with pytest.raises(TypeError):
            checked((entry,))
    else:
        assert delivered(checked((entry,))) == expected


@pytest.mark.parametrize("metadata", [(("alone",),), (("a", "b", "c"),)])
def test_usual_metadata_are_pairs(metadata: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ValueError, match="unpack"):
        checked(metadata)
