"""What a search may change: the section `search` of a spec."""

from typing import Any

from pydantic import Field, model_validator

from marina.core.validation import Section

WAIT_SECONDS = 60.0  # for the database of a search, while another process writes


class Range(Section):
    """Numbers from `low` to `high`, both included; whole ones where both are."""

    low: float = Field(description="the least")
    high: float = Field(description="the most")
    log: bool = Field(default=False, description="drawn by their logarithm, as learning rates should be")
    step: float | None = Field(default=None, gt=0, description="between neighbors; default: any number")

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low must be below high, and {self.low:g} is not below {self.high:g}")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError("log is for numbers above 0, without a step")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers are drawn."""
        return all(float(each).is_integer() for each in (self.low, self.high, self.step or 1.0))


class Search(Section):
    """How `marina search` looks for better training settings."""

    space: dict[str, Range | list[Any]] = Field(
        default={},
        description="setting of the recipe -> {low, high, log, step}, or a list of choices",
    )
    metric: str | None = Field(
        default=None,
        description=(
            "of the epochs on validation, as report/history.json names it; less is better where it has "
            "'loss' in its name; default: what the recipe chooses the best epoch by"
        ),
    )

    @model_validator(mode="after")
    def _choices(self) -> "Search":
        for name, choices in self.space.items():
            if isinstance(choices, list) and len(choices) < 2:
                raise ValueError(f"{name} has {len(choices)} choice(s) to search in; write at least two")
        return self
