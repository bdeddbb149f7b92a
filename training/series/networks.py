"""The networks over a sequence, and what serves a forecast: scaled changes at every step ahead."""

import torch
from torch import nn
from torch.nn import functional

from handlers.inputs.series import SeriesInput
from training.series.settings import RECURRENT, NetworkSettings

CELLS: dict[str, type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


class Recurrent(nn.Module):
    """Steps [B, T, C] -> outputs [B, T, size] of stacked cells: Elman's, LSTM (Hochreiter and Schmidhuber
    1997) or GRU (Cho et al. 2014).
    """

    def __init__(self, settings: NetworkSettings, channels: int) -> None:
        super().__init__()
        self.cells = CELLS[settings.network](
            channels,
            settings.hidden,
            settings.layers,
            batch_first=True,
            dropout=settings.dropout if settings.layers > 1 else 0.0,
            bidirectional=settings.bidirectional,
        )
        self.hidden, self.is_both = settings.hidden, settings.bidirectional
        self.size = settings.hidden * (2 if settings.bidirectional else 1)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        """One batch."""
        outputs: torch.Tensor = self.cells(steps)[0]
        return outputs

    def last(self, outputs: torch.Tensor) -> torch.Tensor:
        """What each direction knows when it has read all: [B, size]."""
        if not self.is_both:
            return outputs[:, -1]
        return torch.cat([outputs[:, -1, : self.hidden], outputs[:, 0, self.hidden :]], 1)


class CausalBlock(nn.Module):
    """Two dilated convolutions that see no later step, around a shortcut (Bai et al. 2018, section 3.3)."""

    def __init__(self, channels: int, settings: NetworkSettings, dilation: int) -> None:
        super().__init__()
        self.padding = (settings.kernel - 1) * dilation
        sizes = (channels, settings.hidden, settings.hidden)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(sizes[place], sizes[place + 1], settings.kernel, dilation=dilation) for place in (0, 1)
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.shortcut = (
            nn.Conv1d(channels, settings.hidden, 1) if channels != settings.hidden else nn.Identity()
        )

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        """[B, C, T] -> [B, hidden, T]."""
        inner = steps
        for convolution in self.convolutions:
            inner = self.dropout(functional.relu(convolution(functional.pad(inner, (self.padding, 0)))))
        return functional.relu(inner + self.shortcut(steps))


class Convolutional(nn.Module):
    """Steps [B, T, C] -> [B, T, size]: blocks whose dilation doubles."""

    def __init__(self, settings: NetworkSettings, channels: int) -> None:
        super().__init__()
        blocks = [
            CausalBlock(settings.hidden if place else channels, settings, 2**place)
            for place in range(settings.layers)
        ]
        self.blocks, self.size = nn.Sequential(*blocks), settings.hidden

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        """One batch."""
        outputs: torch.Tensor = self.blocks(steps.transpose(1, 2)).transpose(1, 2)
        return outputs

    def last(self, outputs: torch.Tensor) -> torch.Tensor:
        """The last step's."""
        return outputs[:, -1]


class Attention(nn.Module):
    """Steps [B, T, C] -> [B, T, size]: a Transformer's encoder (Vaswani et al. 2017; layer norm first) with
    learned positions, which count from the last step backward.
    """

    def __init__(self, settings: NetworkSettings, channels: int, most: int) -> None:
        super().__init__()
        self.size = settings.hidden
        self.embed = nn.Linear(channels, self.size)
        self.positions = nn.Parameter(torch.randn(most, self.size) * 0.02)
        layer = nn.TransformerEncoderLayer(
            self.size,
            settings.heads,
            2 * self.size,
            settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)

    def forward(self, steps: torch.Tensor, is_padding: torch.Tensor | None = None) -> torch.Tensor:
        """One batch; `is_padding` bool [B, T] marks steps that nothing looks at."""
        embedded = self.embed(steps) + self.positions[: steps.shape[1]]
        outputs: torch.Tensor = self.layers(embedded, src_key_padding_mask=is_padding)
        return outputs

    def last(self, outputs: torch.Tensor) -> torch.Tensor:
        """The last step's."""
        return outputs[:, -1]


class Flat(nn.Module):
    """Steps [B, T, C] -> [B, 1, T * C]."""

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.size = channels * steps

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        """One batch."""
        return steps.reshape(-1, 1, self.size)

    def last(self, outputs: torch.Tensor) -> torch.Tensor:
        """All of it."""
        return outputs[:, 0]


def encoder_of(settings: NetworkSettings, channels: int, steps: int) -> nn.Module:
    """The network of the settings over at most `steps` steps of so many channels."""
    if settings.network in RECURRENT:
        return Recurrent(settings, channels)
    if settings.network == "tcn":
        return Convolutional(settings, channels)
    if settings.network == "transformer":
        return Attention(settings, channels, steps)
    return Flat(channels, steps)


class Forecast(nn.Module):
    """Features [B, F], as `SeriesInput.assemble` joins them -> scaled changes from the last value
    [B, horizon].

    It begins as the forecast that nothing changes: the last layer's weights are 0.
    """

    def __init__(self, settings: NetworkSettings, series: SeriesInput) -> None:
        super().__init__()
        known, observed, self.own = series.widths
        self.window, self.channels = series.window, 1 + known + observed
        self.ahead = series.horizon * known
        self.encoder = encoder_of(settings, self.channels, series.window)
        self.embedding: nn.Embedding | None = None
        own = self.own
        if series.series and series.series.dimension:
            self.embedding = nn.Embedding(series.series.size, series.series.dimension)
            own = series.series.dimension
        size = int(self.encoder.size) + self.ahead + own  # type: ignore[arg-type]
        layers: list[nn.Module] = []
        if self.ahead + own:  # what is known ahead acts together with what was
            layers, size = [nn.Linear(size, settings.hidden), nn.ReLU()], settings.hidden
        last = nn.Linear(size, series.horizon)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(*layers, last)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """One batch."""
        past, ahead, own = torch.split(features, [self.window * self.channels, self.ahead, self.own], 1)
        encoder: Recurrent = self.encoder  # type: ignore[assignment]  # or one of the others
        encoded = encoder.last(encoder(past.reshape(-1, self.window, self.channels)))
        if self.embedding is not None:
            own = self.embedding(own[:, 0].long())
        changes: torch.Tensor = self.head(torch.cat([encoded, ahead, own], 1))
        return changes
