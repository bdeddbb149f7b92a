"""How one answer is to be made: what a request may say, with transformers' names."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..protocol.errors import BadRequest
from ..protocol.options import Number, Option, Texts

MOST_STOPS, LONGEST_STOP = 16, 100
MOST_BEAMS = 16


@dataclass(frozen=True)
class GenerationOptions:
    """How one answer is made; the defaults are greedy search."""

    max_new_tokens: int = 32
    num_beams: int = 1
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    @classmethod
    def of_request(cls, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> "GenerationOptions":
        """Those of a request over those of the model. Raises BadRequest for what doesn't go together.

        A draw without a seed has one that nobody knows.
        """
        values = {
            name: value for name, value in {**defaults, **options}.items() if name in cls.__annotations__
        }
        made = cls(**values)
        if made.temperature > 0 and made.num_beams > 1:
            raise BadRequest("num_beams searches and temperature draws; send one of them")
        if made.temperature == 0:
            only_drawn = [name for name in ("top_k", "top_p", "seed") if name in options]
            if only_drawn:
                raise BadRequest(
                    f"{only_drawn[0]} is of drawn tokens; send a temperature above 0, like 1, with it"
                )
        elif "seed" not in values:
            made = cls(**values, seed=secrets.randbelow(1 << 32))
        return made


def request_options(most_tokens: int, vocabulary: int, most_beams: int) -> dict[str, Option]:
    """The options of every request, within the limits of a model."""
    return {
        "max_new_tokens": Number(int, 1, most_tokens, "tokens that are made at most"),
        "num_beams": Number(int, 1, most_beams, "beam search over so many; 1: greedy"),
        "temperature": Number(
            float, 0, 100, "0: the most probable token; above: drawn, the flatter the higher"
        ),
        "top_k": Number(int, 0, vocabulary, "draw from so many most probable tokens; 0: all"),
        "top_p": Number(float, 1e-6, 1, "draw from the fewest tokens of this probability together"),
        "repetition_penalty": Number(
            float, 0.01, 100, "tokens that were there already are so much less likely (Keskar et al. 2019)"
        ),
        "length_penalty": Number(
            float, -10, 10, "of beam search: the length's power that a sum of log-probabilities is divided by"
        ),
        "seed": Number(int, 0, (1 << 63) - 1, "of the draws: the same seed gives the same text"),
        "stop": Texts(MOST_STOPS, LONGEST_STOP, "the answer ends before the first of these texts"),
    }


def check_limits(limits: Mapping[str, Any]) -> None:
    """Raise ValueError for an export's defaults that are no options."""
    unknown = limits.keys() - GenerationOptions.__annotations__.keys()
    if unknown:
        raise ValueError(f"there is no option {sorted(unknown)[0]!r}")
    if not all(math.isfinite(one) for one in limits.values() if isinstance(one, int | float)):
        raise ValueError("an option is not finite")
