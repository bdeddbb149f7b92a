"""The networks for rows of a table, and what serves: a value in the target's unit, or calibrated logits."""

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import nn

from handlers.inputs.columns import CategoryColumn
from handlers.inputs.tables import Table
from training.tables.settings import TableSettings
from training.tensors.networks import ACTIVATIONS


class Embedded(nn.Module):
    """Features [B, F] -> [B, size], an index of a category replaced by its learned numbers."""

    plain: torch.Tensor

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.places: list[int] = []
        self.tables = nn.ModuleList()
        for column in table.columns:
            if isinstance(column, CategoryColumn) and column.dimension:
                self.places.append(table.slices[column.name].start)
                self.tables.append(nn.Embedding(column.size, column.dimension))
        count = max(part.stop for part in table.slices.values())
        plain = [place for place in range(count) if place not in self.places]
        self.register_buffer("plain", torch.tensor(plain, dtype=torch.int64))
        self.size = len(plain) + sum(one.embedding_dim for one in self.tables)  # type: ignore[misc]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """One batch."""
        if not self.places:
            return features
        learned = [
            embedding(features[:, place].long())
            for place, embedding in zip(self.places, self.tables, strict=True)
        ]
        return torch.cat([features.index_select(1, self.plain), *learned], 1)


class RadialBasis(nn.Module):
    """[B, size] -> [B, centers]: Gaussians of the distance to each center (Broomhead and Lowe 1988).

    The centers begin as those of k-means over the training rows (Moody and Darken 1989) and their widths as
    the mean distance to them; then both learn.
    """

    def __init__(self, inputs: torch.Tensor, count: int, seed: int) -> None:
        super().__init__()
        count = min(count, len(np.unique(inputs.numpy(), axis=0)))
        means = KMeans(count, n_init=1, random_state=seed % (1 << 32)).fit(inputs.numpy())
        self.centers = nn.Parameter(torch.from_numpy(means.cluster_centers_).float())
        spread = torch.cdist(inputs, self.centers).mean().clamp(min=1e-3)
        self.log_widths = nn.Parameter(spread.log().repeat(count))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """One batch."""
        distances = (inputs[:, None] - self.centers).square().sum(2)
        return (-distances / (2 * (2 * self.log_widths).exp())).exp()


def body(settings: TableSettings, table: Table, features: torch.Tensor, outputs: int, seed: int) -> nn.Module:
    """Features [B, F] -> [B, outputs]; centers of an rbf network come from the training rows' `features`."""
    embedded = Embedded(table)
    if settings.network == "rbf":
        with torch.no_grad():
            basis = RadialBasis(embedded(features), settings.centers, seed)
        return nn.Sequential(embedded, basis, nn.Linear(len(basis.centers), outputs))
    layers: list[nn.Module] = [embedded]
    size = embedded.size
    for width in settings.hidden if settings.network == "mlp" else ():
        layers += [nn.Linear(size, width), ACTIVATIONS[settings.activation]()]
        layers += [nn.Dropout(settings.dropout)] if settings.dropout else []
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))


class Value(nn.Module):
    """A body of one output -> values [B] in the target's unit."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, inner: nn.Module, targets: torch.Tensor) -> None:
        super().__init__()
        self.inner = inner
        deviation = targets.std(correction=0)
        self.register_buffer("mean", targets.mean())
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, torch.ones(())))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """One batch."""
        values: torch.Tensor = self.inner(features)[:, 0] * self.deviation + self.mean
        return values


class Logits(nn.Module):
    """A body of an output per class -> logits [B, classes], divided by the temperature that was fitted."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.temperature = inner, 1.0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """One batch."""
        logits: torch.Tensor = self.inner(features) / self.temperature
        return logits


def outputs_of(module: nn.Module, features: torch.Tensor, batch: int = 4096) -> torch.Tensor:
    """What a module in eval mode gives for all rows."""
    with torch.inference_mode():
        return torch.cat([module(part) for part in torch.split(features, batch)])
