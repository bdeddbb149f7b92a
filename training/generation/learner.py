"""How a generator learns: cross-entropy of each token behind the right ones before it (teacher forcing); of
the epochs the one counts whose own answers have the fewest errors on validation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from handlers.decoding.generation import Generation
from handlers.decoding.loop import Decoder
from handlers.decoding.options import GenerationOptions
from handlers.decoding.vocabulary import Vocabulary
from handlers.inputs.tokenization import PAD
from handlers.runtime.runtimes import arrays
from training.generation.assessment import token_error_rate
from training.generation.pairs import PairBatch, TokenizedPairs
from training.generation.settings import Settings
from training.runs.fitting import FitModule

ROWS = 256  # that are answered together
UNBOUNDED = float("inf")


class PairLearner(FitModule):
    """A network that learns to write targets."""

    settings: Settings

    def __init__(
        self,
        model: Any,
        settings: Settings,
        validation: TokenizedPairs,
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__(model, settings)
        self.validation, self.vocabulary = validation, vocabulary

    def training_step(self, batch: PairBatch) -> torch.Tensor:
        """One step."""
        logits = self.model(batch.sources, batch.lengths, batch.fed)
        loss = loss_of(logits, batch.wanted, self.settings.label_smoothing)
        self.losses.append(float(loss.detach()))
        return loss

    def evaluate(self) -> dict[str, float]:
        """The loss in training and on validation, and the token error rate of greedy answers there."""
        self.average.eval()
        rows = np.linspace(0, len(self.validation) - 1, self.settings.validation_pairs).astype(int)
        rows = np.unique(rows).tolist()  # a dictionary is in alphabetical order
        device = next(self.average.parameters()).device
        losses = []
        with torch.no_grad():
            for first in range(0, len(rows), ROWS):
                batch = PairBatch(
                    *(one.to(device) for one in self.validation.batch(rows[first : first + ROWS]))
                )
                logits = self.average(batch.sources, batch.lengths, batch.fed)
                losses.append(float(loss_of(logits, batch.wanted, 0.0)))
        options = GenerationOptions(max_new_tokens=self.settings.max_new_tokens)
        found = answers_of(
            self.average, [self.validation.sources[row] for row in rows], self.vocabulary, options, device
        )
        targets = [self.validation.pairs[row].targets for row in rows]
        rate = token_error_rate([one.text for one in found], targets, self.settings.target_tokens)
        self.model.train()
        return {
            "train_loss": float(np.mean(self.losses)),
            "validation_loss": float(np.mean(losses)),
            "validation_token_error_rate": rate,
        }

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """The fewest errors, ties by loss."""
        return (-row["validation_token_error_rate"], -row["validation_loss"])

    def plateau_loss(self, row: dict[str, float]) -> float:
        """On validation."""
        return row["validation_loss"]

    def summary(self, row: dict[str, float]) -> str:
        """Loss and error rate."""
        rate = row["validation_token_error_rate"]
        return f"loss {row['train_loss']:.3f}, token error rate {rate:.3f}"

    def best_model(self) -> Any:
        """The average of the best epoch, on the CPU, to be served."""
        return super().best_model().requires_grad_(False)


def loss_of(logits: torch.Tensor, wanted: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The mean over the tokens, without what fills up."""
    return F.cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), ignore_index=PAD, label_smoothing=smoothing
    )


def answers_of(
    network: Any,
    prompts: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    options: GenerationOptions,
    device: torch.device | str = "cpu",
    *,
    keeps_attention: bool = False,
) -> list[Generation]:
    """What a network answers to these prompts, by the loop that serves it."""
    layout = network.layout()
    prompt, step = (program_of(one, device) for one in network.programs())
    decoder = Decoder(prompt, step, layout, ROWS, UNBOUNDED)
    found = [
        Generation(
            one,
            options,
            vocabulary,
            layout.end,
            is_continued=layout.begin is None,
            keeps_attention=keeps_attention,
        )
        for one in prompts
    ]
    for first in range(0, len(found), ROWS):
        decoder.run(found[first : first + ROWS])
    if failed := next((one.failure for one in found if one.failure), None):
        raise failed
    return found


def program_of(module: nn.Module, device: torch.device | str) -> Any:
    """A module as the loop calls it, with arrays."""
    module = module.eval()

    def compute(*inputs: np.ndarray) -> Any:
        with torch.no_grad():
            return arrays(module(*(torch.from_numpy(one).to(device) for one in inputs)))

    return compute
