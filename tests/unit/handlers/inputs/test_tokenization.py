"""Tokens: the same in training and serving, with their places in the text, bounded in number and time."""

import json
import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.inputs.tokenization import (
    PAD,
    SPECIAL,
    UNKNOWN,
    Tokenizer,
    character_runs,
    first_words,
    load_tokenizer,
    normalized,
)
from handlers.protocol.errors import BrokenArchive
from tests.support.text_data import made_texts
from training.text.tokenizers import train_tokenizer, word_file

OF_WORDS = ("words", "bpe", "wordpiece", "unigram")
KINDS = (*OF_WORDS, "characters")
texts = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            [
                "<pad>",
                "<unk>",
                "wonderful",
                "Film",
                "naïve",
                "don't",
                "İstanbul",
                "ﬁn",
                "😀👩‍👩‍👧",
                "مرحبا",
                "日本語",
                "\u0301",
                "\n\t",
                "\u00a0",
            ]
        ),
        max_size=40,
    ).map(" ".join),
)


@cache
def content(kind: str, lowercase: bool = True) -> bytes:
    pytest.importorskip("tokenizers", reason="pip install marina[text]")
    return train_tokenizer(kind, [text for text, _ in made_texts(300)], 400, lowercase, (1, 3))


@cache
def trained(kind: str) -> Tokenizer:
    return load_tokenizer(content(kind), kind)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(text=texts, most=st.integers(1, 40))
def test_a_text_has_the_same_tokens_in_training_and_in_serving(kind: str, text: str, most: int) -> None:
    """Also in another order, and where only the first count: those are the first of the whole text."""
    one, other = trained(kind), load_tokenizer(content(kind), kind)
    other.encode("something else before", 5)
    found, again, whole = one.encode(text, most), other.encode(text, most), one.encode(text, 10_000)

    np.testing.assert_array_equal(found.ids, again.ids)
    np.testing.assert_array_equal(found.spans, again.spans)
    np.testing.assert_array_equal(found.ids, whole.ids[:most])
    np.testing.assert_array_equal(found.spans, whole.spans[:most])
    assert found.truncated == (len(whole.ids) > most)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_tokens_lie_in_the_text_in_order_and_none_is_padding(kind: str, text: str) -> None:
    """What says "<pad>" in a text is text; places are of the text that was sent, whatever its normal form."""
    found = trained(kind).encode(text, 10_000)

    assert PAD not in found.ids
    assert found.ids.max(initial=UNKNOWN) < trained(kind).size
    assert (found.spans[:, 0] <= found.spans[:, 1]).all()
    assert found.spans.max(initial=0) <= len(text)
    assert (np.diff(found.spans[:, 0]) >= 0).all()


@pytest.mark.parametrize("kind", OF_WORDS)
def test_places_name_the_words_of_the_text(kind: str) -> None:
    """A word that the vocabulary has is one token, at its place."""
    text = "İ said: WONDERFUL film, wonderful!"
    found = trained(kind).encode(text, 100)

    places = {tuple(span) for span in found.spans.tolist()}
    start = text.index("WONDERFUL")
    assert {(start, start + 9), (start + 16, start + 25)} <= places


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a " * 500_000, "a" * 1_000_000, "😀" * 1_000_000, "\n" * 999_999 + "a"])
def test_a_million_characters_take_no_longer_than_their_beginning(kind: str, text: str) -> None:
    """Whatever they are."""
    tokenizer = trained(kind)
    started = time.process_time()
    found = tokenizer.encode(text, 100)

    assert time.process_time() - started < 1
    assert len(found.ids) <= 100


def test_case_is_kept_where_it_counts() -> None:
    """A vocabulary of words may have both."""
    tokenizer = load_tokenizer(word_file([*SPECIAL, "Turkey", "turkey"], False), "words")
    assert tokenizer.encode("Turkey turkey TURKEY", 9).ids.tolist() == [2, 3, UNKNOWN]
    assert normalized("ﬁN", True) == "fin"


def test_runs_of_characters_begin_at_each_character() -> None:
    """White space of any length is one character within a text, and none at its ends."""
    text = "  Ab \n\tc "
    assert [text[slice(*span)] for span in character_runs(text, 1, 2)] == [
        *("A", "Ab", "b", "b \n\t", " \n\t", " \n\tc", "c"),
    ]
    assert [*character_runs("abcd", 3, 3)] == [(0, 3), (1, 4)]
    assert [*character_runs("ab", 3, 4)] == [*character_runs(" \n ", 1, 3)] == []
    learned = train_tokenizer("characters", ["ab  c", "AB\nc"], 300, True, (2, 3))
    assert json.loads(learned)["vocabulary"] == [*SPECIAL, " c", "ab", "ab ", "b ", "b c"]
    assert load_tokenizer(learned, "characters").encode("b\u00a0C", 9).ids.tolist() == [5, 6, 2]


def test_of_a_text_so_many_words_and_characters_are_read() -> None:
    """And whether that is all of it is said."""
    assert first_words(" one two ", 2, 6) == (["one", "two"], [1, 5], False)
    assert first_words("one two", 1, 6) == (["one"], [0], True)
    assert first_words("one twenty", 2, 5) == (["one", "tw"], [0, 4], True)
    assert first_words("one two", 2, 3) == (["one"], [0], True)


@pytest.mark.parametrize(
    ("kind", "file", "words"),
    [
        ("words", b"[]", "no vocabulary of words"),
        ("words", b'{"vocabulary": ["a"], "lowercase": true}', "begins with <pad> and <unk>"),
        ("characters", word_file(SPECIAL, True), "no vocabulary of characters: KeyError"),
        ("bpe", b"{}", "can't be read by the package tokenizers"),
    ],
)
def test_a_damaged_file_does_not_come_up(kind: str, file: bytes, words: str) -> None:
    """With the reason."""
    with pytest.raises(BrokenArchive, match=words):
        load_tokenizer(file, kind)


def test_a_worker_without_the_library_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words need nothing."""
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(BrokenArchive, match=r"needs the package tokenizers: pip install 'marina\[text\]'"):
        load_tokenizer(b"{}", "bpe")
    assert load_tokenizer(word_file(SPECIAL, True), "words").size == 2
