"""Draws docs/images/answers.png: what the three built-in models answer, side by side, through a live
server.

Run it with .venv/bin/python docs/images/answers.py after `make run`.
"""

import io
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from marina.client import Client
from marina.core import kinds, spec
from marina.core.console import Output
from marina.engines import torchserve as server
from marina.evaluation.playback import play
from marina.pipeline import readiness as ready
from marina.pipeline import steps as up

HEIGHT, GAP = 360, 12


def main() -> None:
    """Ask each model once and put the pictures into one row."""
    chosen = [spec.load(name) for name in ("scenes", "digits", "cartpole")]
    with (
        up.serving(chosen, server.free_port_base(), Output(as_json=True)) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        scratch = Path(folder)
        scene = ready.golden_samples(chosen[0])[2]["body"]
        panels = [
            _answer(client, "scenes", scene),
            _answer(client, "digits", _seven()),
            _played(client, scratch),
        ]
    scaled = [
        panel.resize((round(panel.width * HEIGHT / panel.height), HEIGHT), Image.Resampling.LANCZOS)
        for panel in panels
    ]
    sheet = Image.new(
        "RGB", (sum(panel.width for panel in scaled) + GAP * (len(scaled) - 1), HEIGHT), "white"
    )
    left = 0
    for panel in scaled:
        sheet.paste(panel, (left, 0))
        left += panel.width + GAP
    sheet.save(Path(__file__).with_suffix(".png"), optimize=True)


def _seven() -> bytes:
    """A seven, drawn with a pen on yellowish paper."""
    paper = Image.new("RGB", (400, 400), (248, 244, 228))
    points = [(112, 110), (200, 96), (288, 92), (262, 160), (216, 230), (186, 310)]
    ImageDraw.Draw(paper).line(points, fill=(24, 32, 88), width=26, joint="curve")
    buffer = io.BytesIO()
    paper.filter(ImageFilter.GaussianBlur(2)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _answer(client: Client, name: str, body: bytes) -> Image.Image:
    drawn: Image.Image = kinds.get(spec.load(name).kind).draw(body, client.predict(name, body))
    return drawn.convert("RGB")


def _played(client: Client, scratch: Path) -> Image.Image:
    def act(observation: object) -> tuple[object, dict[str, object]]:
        answer = client.predict("cartpole", {"observation": observation[0].tolist()})  # type: ignore[index]
        return answer["action"], answer

    play(act, "CartPole-v1", 1, 3, scratch / "cartpole.gif")
    film = Image.open(scratch / "cartpole.gif")
    film.seek(20)
    return film.convert("RGB")


main()
