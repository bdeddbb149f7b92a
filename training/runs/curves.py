"""How a network of pictures learned: loss and measurements by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure


def draw_curves(
    history: Sequence[dict[str, float]], measures: Mapping[str, str], title: str, path: Path
) -> None:
    """Training loss beside validation `measures` (key of the history -> its name, all in 0..1)."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, validation = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    loss.plot(epochs, [row["loss"] for row in history], marker=".")
    loss.set(title="Training loss", xlabel="epoch", ylim=(0, None))
    for key, name in measures.items():
        validation.plot(epochs, [row[key] for row in history], marker=".", label=name)
    validation.set(title=title, xlabel="epoch", ylim=(0, 1))
    validation.legend()
    for axes in (loss, validation):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)
