"""Word vectors: pairs, losses and analogies by hand, and a training from plain texts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from handlers.inputs.tokenization import PAD
from marina.core.errors import CallError
from tests.support.text_data import write_groups
from training.recipes import word_vectors
from training.runs.run import Run
from training.text.skip_gram import WordBatch, WordBatches, WordVectors, analogy_accuracy


@pytest.mark.slow
def test_words_are_learned_from_plain_texts(tmp_path: Path) -> None:
    """By both methods, and analogies are asked."""
    groups = write_groups(tmp_path / "groups.jsonl")
    (tmp_path / "questions.txt").write_text(": topics\nship harbor oven flour\nship harbor oven nowhere\n")
    for method in ("skip_gram", "cbow"):
        settings = {"data": str(groups), "method": method, "dimension": 16, "epochs": 8, "batch_size": 64}
        settings |= {"subsample": 0, "analogies": str(tmp_path / "questions.txt"), "max_tokens": 24}
        trained = word_vectors.train(word_vectors.Settings(**settings), Run(tmp_path))
        assert trained.training["analogies_asked"] == 1
        assert trained.metrics["analogies"] in (0, 1)
        assert trained.metrics["validation_loss"] < 4
        assert trained.module(torch.tensor([[2, PAD], [2, 2]]))[0].norm() == pytest.approx(1)
    (tmp_path / "questions.txt").write_text("a b c nowhere\n")
    with pytest.raises(CallError, match=r"no line of .* has four words of the vocabulary"):
        word_vectors.train(word_vectors.Settings(**{**settings, "epochs": 1}), Run(tmp_path))
    (tmp_path / "questions.txt").write_text("one two three\n")
    with pytest.raises(CallError, match="line 1: 3 words; write four"):
        word_vectors.read_analogies(str(tmp_path / "questions.txt"), True)


def test_analogies_are_answered_by_the_nearest_other_word() -> None:
    """The three of the question are no answer (Mikolov et al. 2013, section 4)."""
    words = ["<pad>", "<unk>", "man", "woman", "king", "queen", "apple"]
    vectors = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1], [-1, 0, 0]], float)
    questions = [("man", "woman", "king", "queen"), ("man", "king", "woman", "apple"), ("a", "b", "c", "d")]
    assert analogy_accuracy(vectors, words, questions) == (0.5, 2)
    assert analogy_accuracy(vectors, words, questions[2:]) == (None, 0)


def test_words_are_paired_with_those_around_them_in_their_text() -> None:
    """Never over the end of a text; frequent words are left out, and negatives come by their counts."""
    texts = [np.array([2, 3, 4]), np.array([5, 6]), *[np.array([7, 7, 7, 7])] * 40]
    counts = np.bincount(np.concatenate(texts), minlength=8).astype(float)
    batches = WordBatches(texts, counts, 60, 0, 5, 4, 0.0)
    found: dict[int, set[int]] = {}
    negatives = []
    for batch in (batch for _ in range(4) for batch in batches):
        negatives.append(batch.negatives)
        for center, contexts in zip(batch.centers.tolist(), batch.contexts.tolist(), strict=True):
            found.setdefault(center, set()).update(contexts)
    assert {word: around - {PAD} for word, around in found.items()} == {
        **{2: {3, 4}, 3: {2, 4}, 4: {2, 3}, 5: {6}, 6: {5}, 7: {7}},
    }
    drawn = np.bincount(torch.cat(negatives).flatten().numpy(), minlength=8)
    assert drawn[:2].sum() == 0
    expected = counts**0.75 / (counts**0.75).sum()
    np.testing.assert_allclose(drawn / drawn.sum(), expected, atol=0.02)
    rarer = WordBatches(texts, counts, 8, 0, 5, 4, 1e-2)
    rarer.order()
    assert (rarer.words[rarer.kept] == 7).sum() < 40
    assert {2, 3, 4, 5, 6} <= set(rarer.words[rarer.kept].tolist()) | {2, 3, 4, 5, 6}


@pytest.mark.parametrize("is_bag", [False, True])
def test_the_loss_is_the_log_likelihood_of_true_against_drawn_words(is_bag: bool) -> None:
    """Computed by hand for one center with two words around it (Mikolov et al. 2013, equation 4)."""
    model = WordVectors(6, 4)
    with torch.no_grad():
        for table in (model.words, model.neighbors):
            table.weight.copy_(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))
            table.weight[PAD] = 0
    batch = WordBatch(torch.tensor([2]), torch.tensor([[3, 0, 4]]), torch.tensor([[5, 3]]))
    words, neighbors = model.words.weight, model.neighbors.weight

    def term(source: torch.Tensor, target: int) -> torch.Tensor:
        against = sum(torch.log(torch.sigmoid(-source @ neighbors[k])) for k in (5, 3))
        return -(torch.log(torch.sigmoid(source @ neighbors[target])) + against)

    expected = (term(words[2], 3) + term(words[2], 4)) / 2
    if is_bag:
        expected = term((words[3] + words[4]) / 2, 2)
    assert float(model.loss(batch, is_bag).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
