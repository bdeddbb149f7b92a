"""How large one file of a data set may be, and how its values are read: the same for learning and for
serving, set in the spec.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from handlers.inputs.images import ImageInput
from marina.core.spec import Section


@dataclass(frozen=True)
class Limits:
    """Of one file: bytes, and pixels when decoded; of a clip all frames' together, and their number. And the
    value that is white in pictures of more than 8 bits, None where their files say it.
    """

    max_bytes: int = 10_000_000
    max_pixels: int = 50_000_000
    max_frames: int = 1_000
    value_range: float | None = None


ABOUT_VALUES = "what is white in pictures of more than 8 bits, 4095 of a camera of 12; default: as files say"
MaxFileBytes = Annotated[
    int,
    Field(
        le=20_000_000,
        description="of one file, learned from or sent; TorchServe takes requests of 20 MB at most",
    ),
]
ValueRange = Annotated[float | None, Field(ge=1, le=1e9, description=ABOUT_VALUES)]


class PictureLimits(Section):
    """The settings of a recipe that learns from pictures or measures on them; the endpoint gets the same."""

    max_bytes: MaxFileBytes = Field(default=Limits.max_bytes, ge=10_000)
    max_pixels: int = Field(
        default=Limits.max_pixels, ge=10_000, le=250_000_000, description="of a picture, learned from or sent"
    )
    value_range: ValueRange = None

    @property
    def limits(self) -> Limits:
        """For reading the data, and for the graph's input."""
        return Limits(self.max_bytes, self.max_pixels, value_range=self.value_range)

    def limit(self, config: ImageInput) -> ImageInput:
        """`config` with these limits of what is sent."""
        return replace(
            config, max_bytes=self.max_bytes, max_pixels=self.max_pixels, value_range=self.value_range
        )
