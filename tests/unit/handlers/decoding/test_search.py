"""Searches of the next token: draws, penalties and beams, against what can be counted out."""

from itertools import product

import numpy as np
import pytest

from handlers.decoding.options import GenerationOptions
from handlers.decoding.search import BeamSearch, OneByOne, drawn, log_softmax, make_search, penalized
from handlers.protocol.errors import BadRequest

END, SIZE, LENGTH = 0, 4, 4


def table(seed: int) -> np.ndarray:
    """Logits of the next token by step and by the last token."""
    return np.random.default_rng(seed).normal(size=(LENGTH, SIZE, SIZE)) * 2


def best_by_hand(logits: np.ndarray, penalty: float) -> tuple[list[int], float]:
    """Of all answers of at most LENGTH tokens that end by themselves."""
    found = []
    for length in range(LENGTH):
        for tokens in product(range(1, SIZE), repeat=length):
            steps = zip([1, *tokens], [*tokens, END], strict=True)
            score = sum(log_softmax(logits[place, last])[token] for place, (last, token) in enumerate(steps))
            found.append((score / (length + 1) ** penalty, [*tokens]))
    best = max(found)
    return best[1], best[0]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_wide_beams_find_the_best_of_all_answers(penalty: float) -> None:
    """As many beams as there are answers find what trying all of them finds."""
    for seed in range(10):
        logits = table(seed)
        options = GenerationOptions(LENGTH, num_beams=100, length_penalty=penalty)
        search = BeamSearch(options, [], END)
        last = [1]
        while not search.finish_reason:
            step = len(search.beams[0].tokens)
            last = search.advance(np.stack([logits[step, one] for one in last])).tokens
        tokens, score = best_by_hand(logits, penalty)
        assert search.tokens == tokens
        assert search.score / (len(tokens) + 1) ** penalty == pytest.approx(score)


def test_one_beam_is_greedy() -> None:
    """And both end by the end's token or at their limit."""
    for seed in range(10):
        logits = table(seed)
        greedy = make_search(GenerationOptions(LENGTH), [], END)
        beam = BeamSearch(GenerationOptions(LENGTH, num_beams=1), [], END)
        last = 1
        for step in range(LENGTH):
            going = greedy.advance(logits[step, [last]])
            if not beam.finish_reason:
                beam.advance(logits[step, [last]])
            if not going.tokens:
                break
            last = going.tokens[0]
        if greedy.finish_reason == "stop":
            assert greedy.tokens == beam.tokens
            assert greedy.score == pytest.approx(beam.score)
        else:
            assert len(greedy.tokens) == LENGTH


def test_draws_have_the_probabilities_that_they_should() -> None:
    """After temperature, top_k and top_p; always the same with a seed."""
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    cases = [
        (GenerationOptions(temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (GenerationOptions(temperature=0.5), np.array([0.25, 0.09, 0.0225, 0.0025]) / 0.365),
        (GenerationOptions(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0]),
        (GenerationOptions(temperature=1.0, top_p=0.7), [0.625, 0.375, 0, 0]),
        (GenerationOptions(temperature=1.0, top_p=0.01), [1, 0, 0, 0]),
        (GenerationOptions(temperature=1e-6), [1, 0, 0, 0]),
    ]
    for options, expected in cases:
        random = np.random.default_rng(0)
        counts = np.bincount([drawn(logits, options, random) for _ in range(4000)], minlength=4) / 4000
        np.testing.assert_allclose(counts, expected, atol=0.03)


def test_repeated_tokens_are_less_likely() -> None:
    """Positive logits are divided, negative ones multiplied; those of the prompt, too."""
    np.testing.assert_allclose(penalized(np.array([2.0, -1.0, 3.0]), [0, 1, 9], 2.0), [1, -2, 3])
    search = OneByOne(GenerationOptions(3, repetition_penalty=10.0), [1], END)
    logits = np.array([[0.1, 5.0, 4.0, 3.9]])
    for _ in range(3):
        search.advance(logits)
    assert search.tokens == [2, 3, 1]


def test_what_is_no_number_is_an_error() -> None:
    """And no token is drawn of it; one that is forbidden is no fault."""
    with pytest.raises(ValueError, match="no numbers"):
        OneByOne(GenerationOptions(), [], END).advance(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="no numbers"):
        BeamSearch(GenerationOptions(num_beams=2), [], END).advance(np.array([[-np.inf, -np.inf]]))
    assert OneByOne(GenerationOptions(), [], END).advance(np.array([[-np.inf, 1.0]])).tokens == [1]


def test_a_draw_without_a_seed_has_one_of_its_own() -> None:
    """Another one each time; a model's own defaults count."""
    made = [GenerationOptions.of_request({"temperature": 1.0}, {}).seed for _ in range(3)]
    assert len({*made}) == 3
    assert GenerationOptions.of_request({"temperature": 1.0, "seed": 7}, {}).seed == 7
    assert GenerationOptions.of_request({}, {"num_beams": 4}).num_beams == 4
    with pytest.raises(BadRequest, match="seed is of drawn tokens"):
        GenerationOptions.of_request({"seed": 7}, {})
