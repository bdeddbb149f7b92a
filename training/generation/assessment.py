"""How good answers are: edit distance to the nearest right one, whole answers that are right, BLEU."""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

from training.generation.pairs import cut

PAIR_METRICS = ("token_accuracy", "token_error_rate", "exact_match", "sequence_error_rate", "bleu")
INSERTED = "∅"  # in the place of a token that isn't there


def token_error_rate(answers: Sequence[str], targets: Sequence[Sequence[str]], form: str) -> float:
    """Insertions, deletions and substitutions over the tokens of the targets; of several right ones the
    nearest counts. Of phonemes this is the PER, of characters the CER, of words the WER.
    """
    errors = tokens = 0
    for answer, right in zip(answers, targets, strict=True):
        target, distance = nearest(answer, right, form)
        errors += distance
        tokens += len(target)
    return errors / max(1, tokens)


def pair_metrics(answers: Sequence[str], targets: Sequence[Sequence[str]], form: str) -> dict[str, float]:
    """Metrics by name; BLEU (Papineni et al. 2002) by sacrebleu in 0..1, where that is installed and targets
    are words.
    """
    rate = token_error_rate(answers, targets, form)
    pairs = zip(answers, targets, strict=True)
    exact = sum(nearest(answer, right, form)[1] == 0 for answer, right in pairs) / max(1, len(answers))
    metrics = {
        "token_accuracy": max(0.0, 1 - rate),
        "token_error_rate": rate,
        "exact_match": exact,
        "sequence_error_rate": 1 - exact,
    }
    if form == "words" and find_spec("sacrebleu") is not None:
        import sacrebleu

        most = max(map(len, targets))
        references = [[right[min(number, len(right) - 1)] for right in targets] for number in range(most)]
        metrics["bleu"] = sacrebleu.corpus_bleu(list(answers), references).score / 100
    return metrics


def nearest(answer: str, targets: Sequence[str], form: str) -> tuple[list[str], int]:
    """The tokens of the target that an answer is nearest to, and its edit distance from it."""
    found = cut(answer, form)
    pairs = [(target, edit_distance(found, target)) for target in (cut(one, form) for one in targets)]
    return min(pairs, key=lambda pair: pair[1])


def edit_distance(found: Sequence[str], target: Sequence[str]) -> int:
    """Levenshtein's, by token."""
    return _table(found, target)[-1][-1]


def substitutions(found: Sequence[str], target: Sequence[str]) -> list[tuple[str, str]]:
    """(token of the target, token of the answer) where they differ, in one best alignment; INSERTED where
    one of them has none.
    """
    table = _table(found, target)
    row, column = len(found), len(target)
    pairs = []
    while row or column:
        here = table[row][column]
        if row and column and here == table[row - 1][column - 1] + (found[row - 1] != target[column - 1]):
            if found[row - 1] != target[column - 1]:
                pairs.append((target[column - 1], found[row - 1]))
            row, column = row - 1, column - 1
        elif row and here == table[row - 1][column] + 1:
            pairs.append((INSERTED, found[row - 1]))
            row -= 1
        else:
            pairs.append((target[column - 1], INSERTED))
            column -= 1
    return pairs[::-1]


def frequent_substitutions(
    answers: Sequence[str], targets: Sequence[Sequence[str]], form: str
) -> Counter[tuple[str, str]]:
    """How often which token stands for which."""
    counts: Counter[tuple[str, str]] = Counter()
    for answer, right in zip(answers, targets, strict=True):
        target, distance = nearest(answer, right, form)
        if distance:
            counts.update(substitutions(cut(answer, form), target))
    return counts


def _table(found: Sequence[str], target: Sequence[str]) -> list[list[int]]:
    """Distances of all beginnings."""
    table = [[*range(len(target) + 1)]]
    for row, token in enumerate(found, 1):
        above, here = table[-1], [row]
        for column, other in enumerate(target, 1):
            here.append(min(above[column] + 1, here[-1] + 1, above[column - 1] + (token != other)))
        table.append(here)
    return table
