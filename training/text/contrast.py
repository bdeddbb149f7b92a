"""How an embedder learns from texts that belong together: InfoNCE with the other texts of the batch as
negatives (van den Oord et al. 2018; Chen et al. 2020, section 2.1, of both directions).
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from handlers.inputs.tokenization import PAD, UNKNOWN
from handlers.kinds.texts import padded
from marina.core.errors import CallError
from training.data.embedding_texts import Entry
from training.runs.batches import Batches
from training.runs.fitting import FitModule
from training.text.embedding import TextEmbedder, embedded
from training.text.encoders import Encoder, layer_rates
from training.text.retrieval import retrieve
from training.text.settings import NetworkSettings

Inputs = Sequence[np.ndarray] | torch.Tensor  # tokens of each text, or what a frozen encoder made of them
PairBatch = tuple[torch.Tensor, torch.Tensor]  # tokens or features [2 B, ...], the group of each pair [B]


class PairBatches(Batches[PairBatch]):
    """Pairs of texts of one group, each text once an epoch, all of a batch from different groups as far as
    there are.

    `inputs` are tokens, or what a frozen encoder made of them.
    """

    def __init__(self, entries: Sequence[Entry], inputs: Inputs, size: int, seed: int) -> None:
        super().__init__(seed)
        groups: dict[str, list[int]] = defaultdict(list)
        for row, one in enumerate(entries):
            if one.group:
                groups[one.group].append(row)
        self.groups = [rows for rows in groups.values() if len(rows) > 1]
        self.inputs = inputs
        self.group_of = {row: number for number, rows in enumerate(self.groups) for row in rows}
        pairs = sum(len(rows) // 2 for rows in self.groups)
        if pairs < 2 or len(self.groups) < 2:
            raise CallError("no texts of two groups belong together, so there is nothing to contrast")
        self.size = min(size, pairs)
        self.steps = pairs // self.size

    def __len__(self) -> int:
        return self.steps

    def order(self) -> Sequence[Sequence[int]]:
        """First texts of the pairs of a step, then the second ones."""
        pairs: list[tuple[int, int]] = []
        for rows in self.groups:
            drawn = [rows[k] for k in torch.randperm(len(rows), generator=self.generator).tolist()]
            pairs += zip(drawn[::2], drawn[1::2], strict=False)
        drawn = torch.randperm(len(pairs), generator=self.generator).tolist()
        steps = []
        for step in range(self.steps):
            chosen = [pairs[k] for k in drawn[step * self.size : (step + 1) * self.size]]
            steps.append([*(one for one, _ in chosen), *(other for _, other in chosen)])
        return steps

    def batch(self, read: Any) -> PairBatch:
        """The inputs of these rows, and the groups of the pairs."""
        groups = torch.tensor([self.group_of[row] for row in read[: len(read) // 2]])
        if isinstance(self.inputs, torch.Tensor):
            return self.inputs[torch.as_tensor(read)], groups
        return torch.from_numpy(padded([self.inputs[row] for row in read])), groups


class ContrastiveLearner(FitModule):
    """An embedder that learns from pairs; of the epochs the one with the best validation counts."""

    remembered: ClassVar[tuple[str, ...]] = FitModule.remembered
    settings: NetworkSettings

    def __init__(
        self,
        model: TextEmbedder,
        settings: NetworkSettings,
        temperature: float,
        validation: Sequence[Entry],
        inputs: Inputs,
    ) -> None:
        super().__init__(model, settings)
        self.temperature, self.validation, self.inputs = temperature, validation, inputs

    def parameter_groups(self) -> dict[float, list[torch.nn.Parameter]]:
        """A pretrained encoder learns slower, layer by layer."""
        body = self.model.body
        if not isinstance(body, Encoder):
            return super().parameter_groups()
        groups = layer_rates(body, self.settings.encoder_learning_rate, self.settings.layer_decay)
        projection: Any = self.model.projection
        head = [each for each in projection.parameters() if each.requires_grad]
        return {**groups, **({self.settings.learning_rate: head} if head else {})}

    def training_step(self, batch: PairBatch) -> torch.Tensor:
        """One step; some tokens are unknown."""
        inputs, groups = batch
        if self.settings.token_dropout and not inputs.is_floating_point():
            dropped = torch.rand(inputs.shape, device=inputs.device) < self.settings.token_dropout
            inputs = inputs.masked_fill(dropped & (inputs != PAD), UNKNOWN)
        one, other = self.model(inputs).chunk(2)
        loss = info_nce(one, other, groups, self.temperature)
        self.losses.append(float(loss.detach()))
        return loss

    def evaluate(self) -> dict[str, float]:
        """The loss, and how well validation texts are found."""
        self.model.eval()
        device = next(self.average.parameters()).device
        if isinstance(self.inputs, torch.Tensor):
            with torch.no_grad():
                vectors = self.average(self.inputs.to(device)).float().cpu()
        else:
            vectors = embedded(self.average, self.inputs, device)
        self.model.train()
        metrics = retrieve(vectors.numpy(), self.validation).metrics
        return {"loss": float(np.mean(self.losses)), **metrics}

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """The mean reciprocal rank; without a validation text that belongs to another, the loss."""
        return row.get("mrr", 0.0), -row["loss"]

    def plateau_loss(self, row: dict[str, float]) -> float:
        """Of validation where it can be, else of training."""
        return -row["mrr"] if "mrr" in row else row["loss"]

    def summary(self, row: dict[str, float]) -> str:
        """Loss and recall."""
        recall = f", validation recall at 1 {row['recall_at_1']:.3f}" if "recall_at_1" in row else ""
        return f"loss {row['loss']:.3f}{recall}"


def info_nce(
    one: torch.Tensor, other: torch.Tensor, groups: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The mean cross-entropy of finding each pair's partner among all of the batch, in both directions.

    Unit vectors [B, d] of the first and second texts; a text of the same group (int64 [B]) that isn't the
    partner is no negative.
    """
    logits = one @ other.T / temperature
    same = (groups[:, None] == groups) & ~torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    logits = logits.masked_fill(same, torch.finfo(logits.dtype).min)
    targets = torch.arange(len(groups), device=groups.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
