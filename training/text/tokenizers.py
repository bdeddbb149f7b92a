"""Tokenizers that are learned from training texts, as the file that serving reads."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from handlers.inputs.tokenization import (
    CHARACTERS,
    SPECIAL,
    WORDS,
    CharacterTokenizer,
    WordTokenizer,
    word_at,
)
from marina.core.errors import CallError
from training.text.encoders import Encoder, freeze, load_encoder
from training.text.settings import NetworkSettings

PRETRAINED = "pretrained"  # in an export
LEAST_COUNT = 2  # of a word that stands in the vocabulary


def tokens_of(settings: NetworkSettings, texts: Sequence[str]) -> tuple[bytes, str, Encoder | None]:
    """The content of tokenizer.json, its kind, and the encoder that it belongs to where one was pretrained;
    otherwise it is learned from the texts.

    Raises CallError for more tokens of a text than the encoder has positions.
    """
    if not settings.is_pretrained:
        sizes = settings.vocabulary_size, settings.lowercase, settings.character_ngrams
        return train_tokenizer(settings.tokenizer, texts, *sizes), settings.tokenizer, None
    encoder, content = load_encoder(settings.architecture, settings.pooling, settings.pooled_layers)
    if settings.max_tokens > encoder.longest:
        raise CallError(f"max_tokens {settings.max_tokens}: {settings.architecture} has {encoder.longest}")
    freeze(encoder, settings.frozen_layers)
    return content, PRETRAINED, encoder


def train_tokenizer(
    kind: str, texts: Sequence[str], size: int, lowercase: bool, ngrams: tuple[int, int] = (1, 1)
) -> bytes:
    """The content of tokenizer.json: at most `size` tokens of the most frequent words, pieces of words, or
    runs of characters that are as long as `ngrams` says.

    Raises CallError where the library is not installed.
    """
    if kind == WORDS:
        return word_file(frequent_tokens(texts, size, WordTokenizer([*SPECIAL], lowercase)), lowercase)
    if kind == CHARACTERS:
        runs = CharacterTokenizer([*SPECIAL], lowercase, *ngrams)
        content = {"sizes": [*ngrams], "vocabulary": frequent_tokens(texts, size, runs)}
        return _file({"type": CHARACTERS, "lowercase": lowercase, **content})
    try:
        import tokenizers
    except ImportError as error:
        raise CallError(
            f"tokenizer: {kind} needs the package tokenizers: pip install 'marina[text]'; or say words"
        ) from error
    tokenizer, trainer = BUILDERS[kind](tokenizers, size)
    forms = [tokenizers.normalizers.NFKC(), *([tokenizers.normalizers.Lowercase()] if lowercase else [])]
    tokenizer.normalizer = tokenizers.normalizers.Sequence(forms)
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str()).encode()


def frequent_tokens(texts: Iterable[str], size: int, tokenizer: WordTokenizer) -> list[str]:
    """The most frequent tokens of the texts, behind <pad> and <unk>; ties in alphabetical order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word_at(text, span, tokenizer.lowercase) for span in tokenizer.spans(text))
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: size - len(SPECIAL)]
    return [*SPECIAL, *(word for word, count in frequent if count >= LEAST_COUNT)]


def word_file(words: Sequence[str], lowercase: bool) -> bytes:
    """The content of tokenizer.json for these words."""
    return _file({"type": WORDS, "lowercase": lowercase, "vocabulary": list(words)})


def _file(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def _bpe(library: Any, size: int) -> tuple[Any, Any]:
    """Byte-pair encoding (Sennrich et al. 2016) over bytes: there is nothing that it doesn't know."""
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = _words_first(library, library.pre_tokenizers.ByteLevel(add_prefix_space=True))
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return tokenizer, trainer


def _wordpiece(library: Any, size: int) -> tuple[Any, Any]:
    """WordPiece, as BERT has it (Devlin et al. 2019)."""
    tokenizer = library.Tokenizer(library.models.WordPiece(unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = _words_first(library, library.pre_tokenizers.BertPreTokenizer())
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
    )
    return tokenizer, trainer


def _unigram(library: Any, size: int) -> tuple[Any, Any]:
    """Unigram language model (Kudo 2018)."""
    tokenizer = library.Tokenizer(library.models.Unigram())
    tokenizer.pre_tokenizer = _words_first(library, library.pre_tokenizers.Metaspace())
    trainer = library.trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), unk_token=SPECIAL[1], show_progress=False
    )
    return tokenizer, trainer


def _words_first(library: Any, pieces: Any) -> Any:
    """White space ends every token, so that a text's beginning has the tokens that it has in the whole."""
    return library.pre_tokenizers.Sequence([library.pre_tokenizers.WhitespaceSplit(), pieces])


BUILDERS: dict[str, Callable[[Any, int], tuple[Any, Any]]] = {
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}
