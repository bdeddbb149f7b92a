"""What all recipes for embedders may be told: the data, what is archived with the model, and the answer."""

from pydantic import Field, field_validator

from handlers.inputs.vector_index import MOST_ENTRIES
from handlers.kinds.embedder import LABEL_CHARACTERS, MOST_NEAREST
from training.data.embedding_texts import Relevance
from training.text.settings import ReadingSettings

SPEC_LABELS = 1000


class AnswerSettings(ReadingSettings):
    """What an answer has beside the vector."""

    relevance: Relevance = Field(
        default="auto",
        description=(
            "which texts belong together: pairs (columns text and positive), groups, labels, near_copies; "
            "auto: the first of these that the data has"
        ),
    )
    index: str | None = Field(
        default=None,
        description=(
            f"a table or JSON lines of texts (columns text, id), up to {MOST_ENTRIES:,}, that is archived "
            "with the model: answers have the nearest ones"
        ),
    )
    index_characters: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="of an entry's text that answers show; longer ones end in …",
    )
    labels: tuple[str, ...] = Field(
        default=(), max_length=SPEC_LABELS, description="answers have the nearest of these (zero-shot)"
    )
    top_k: int = Field(
        default=5, ge=1, le=MOST_NEAREST, description="labels and neighbors of an answer, unless it says"
    )
    baseline: bool = Field(default=True, description="measure TF-IDF with cosine beside it")

    @field_validator("labels")
    @classmethod
    def _each_once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels) or not all(
            label.strip() and len(label) <= LABEL_CHARACTERS for label in labels
        ):
            raise ValueError(f"write each label once, with 1 to {LABEL_CHARACTERS:,} characters")
        return labels
