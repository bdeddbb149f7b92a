"""Tags of words -> spans: the BIO scheme (Ramshaw and Marcus 1995; IOB2), read as the CoNLL evaluation and
seqeval do: an I- of another label, or without a B- in front, begins a span.
"""

from collections.abc import Sequence

OUTSIDE = "O"

Span = tuple[str, int, int]  # label; first word, and the one behind the last


def is_bio(tags: Sequence[str]) -> bool:
    """Whether these are tags of spans: O, and B- or I- with a label."""
    return any(tag[:2] in ("B-", "I-") for tag in tags) and all(
        tag == OUTSIDE or (tag[:2] in ("B-", "I-") and len(tag) > 2) for tag in tags
    )


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The spans of a sentence, in its order."""
    spans: list[Span] = []
    label, start = "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        own = "" if tag == OUTSIDE else tag[2:]
        if label and (own != label or tag[:2] == "B-"):
            spans.append((label, start, place))
            label = ""
        if own and not label:
            label, start = own, place
    return spans
