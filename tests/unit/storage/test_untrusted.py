"""Stored content of any kind ends as a value of the wanted type, or in one sentence."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ssem_dask.errors import SourceError
from ssem_dask.storage import untrusted
from ssem_dask.storage.untrusted import JSON_OBJECT

GARBLED = [b"", b" ", b"{", b"null", b"[]", b"5", b'"x"', b"1e999", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b'{"a"}']
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("content", GARBLED)
def test_a_file_that_holds_something_else(tmp_path: Path, content: bytes) -> None:
    url = str(tmp_path / "record.json")
    Path(url).write_bytes(content)
    with pytest.raises(SourceError, match=r"record\.json: .*; restore or delete it\.$"):
        untrusted.read_json(url, JSON_OBJECT)
    assert untrusted.read_hint(url, JSON_OBJECT) is None


def test_a_file_that_is_absent_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        untrusted.read_json(str(tmp_path / "record.json"), JSON_OBJECT)
    assert untrusted.read_hint(str(tmp_path / "record.json"), JSON_OBJECT) is None
    assert untrusted.read_hint(str(tmp_path), JSON_OBJECT) is None


def sentence_or(interpret: Callable[[], object]) -> object:
    """Return the interpretation, or the sentence that it ends in."""
    try:
        return interpret()
    except SourceError as error:
        return error


@given(tree=JSON)
def test_a_value_has_the_wanted_type_or_there_is_a_sentence(tree: object) -> None:
    wanted = TypeAdapter(int)
    ended = sentence_or(lambda: untrusted.value_at(tree, "a", "b", wanted=wanted, where="here"))
    assert isinstance(ended, int) or (str(ended).startswith("here: ") and "\n" not in str(ended))


@given(attributes=st.dictionaries(st.sampled_from(["ours", "other"]), JSON))
def test_a_record_of_ours_is_an_object_absent_or_refused(attributes: dict[str, object]) -> None:
    record = sentence_or(lambda: untrusted.record_in(attributes, "ours", where="here"))
    stored = attributes.get("ours")
    if "ours" in attributes and not isinstance(stored, dict):
        assert "its attribute ours cannot be read" in str(record)
    else:
        assert record == stored


@given(content=st.binary(max_size=5000), at_once=st.integers(1, 999))
def test_inflated_pieces_are_the_content(content: bytes, at_once: int) -> None:
    pieces = list(untrusted.inflated(zlib.compress(content), at_once=at_once, limit=5000))
    assert b"".join(pieces) == content
    assert all(len(piece) <= at_once for piece in pieces)
    if len(content) > 1:
        with pytest.raises(zlib.error, match="expands to more"):
            list(untrusted.inflated(zlib.compress(content), at_once=at_once, limit=len(content) - 1))
    for torn in (b"", zlib.compress(content)[:-1], b"x" + zlib.compress(content)):
        with pytest.raises(zlib.error):
            list(untrusted.inflated(torn, at_once=at_once, limit=5000))


def test_errors_of_a_store_are_none_of_its_content() -> None:
    with pytest.raises(PermissionError), untrusted.interpreting("here"):
        raise PermissionError("no right to read")


def test_a_long_cause_is_shortened() -> None:
    with pytest.raises(SourceError) as caught, untrusted.interpreting("here"):
        json.loads(json.dumps("x" * 10_000))["y" * 10_000]
    assert len(str(caught.value)) < 400
