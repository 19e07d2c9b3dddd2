from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtime.field_diff import FieldDifference, diff_documents

values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner),
    max_leaves=8,
)
documents = st.dictionaries(st.text("abc", min_size=1, max_size=2), values)


def test_nested_fields_are_named_by_their_path() -> None:
    """A nested field is named by its path; a list is compared as a whole."""
    before = {"a": 1, "b": {"c": {"d": 1, "e": 2}}, "l": [1], "gone": 1}
    after = {"a": 1, "b": {"c": {"d": 1, "e": 3}}, "l": [2], "new": 2}

    assert list(diff_documents(before, after)) == [
        FieldDifference("b.c.e", 2, 3),
        FieldDifference("l", [1], [2]),
        FieldDifference("gone", 1, None),
        FieldDifference("new", None, 2),
    ]


@given(documents)
def test_a_document_does_not_differ_from_itself(document: dict[str, Any]) -> None:
    """Equal documents have no differences."""
    assert list(diff_documents(document, document)) == []


@given(documents, documents)
def test_differences_are_symmetric(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Swapping the documents swaps the values of each difference."""
    there = {(each.field, repr(each.before), repr(each.after)) for each in diff_documents(one, other)}
    back = {(each.field, repr(each.after), repr(each.before)) for each in diff_documents(other, one)}

    assert there == back
