"""Policies: the action decides, and episodes measure."""

from collections.abc import Mapping
from typing import Any

from handlers.runtime.golden import difference
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds import episodes
from marina.kinds.kind import Answer, Kind, Measured, MeasurementOptions, Progress

MAX_BATCH = 1024  # whoever asks a policy for many environments at once gets one batch
LISTED = 4  # values of a policy that fit into a table


class PolicyKind(Kind):
    """An observation -> the action."""

    name = "policy"
    # small networks take least in ONNX Runtime
    export_defaults: Mapping[str, Any] = {"max_batch": MAX_BATCH, "runtimes": ("openvino", "onnxruntime")}
    is_playable = True

    def summarize(self, content: Any) -> str:
        """The action, and a few values."""
        values = content.get("q_values") or content.get("probabilities") or []
        listed = f" (q {' '.join(f'{value:.1f}' for value in values)})" if 0 < len(values) <= LISTED else ""
        return f"{content.get('action')}{listed}"

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether both act alike."""
        return not difference(answer["action"], other["action"])

    def draw(self, body: bytes, answer: Any) -> Any:
        """An action has no picture."""
        raise CallError(
            "only answers about pictures can be drawn; for a policy see: marina play NAME --gif FILE"
        )

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "Return":
        """The return of episodes."""
        if options.data is not None:
            raise CallError(f"{spec.name} is measured in its environment; leave --data out")
        if options.sampled and not episodes.can_sample(spec):
            raise CallError(f"{spec.name} has no distribution to sample from; leave --sampled out")
        return Return(spec, options)

    def check_import(self, source: str, overrides: Mapping[str, Any]) -> None:
        """A file doesn't say where its agent learned."""
        if "training.environment" not in overrides:
            raise CallError(
                f"{source} doesn't say where it learned; add its environment: "
                "--set training.environment=CartPole-v1"
            )


class Return:
    """The mean return over episodes; in process and through the endpoint every action must be the same."""

    def __init__(self, spec: Spec, options: MeasurementOptions) -> None:
        self.spec, self.options = spec, options
        self.is_recorded = not options.sampled

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Play the episodes.

        The endpoint is sent single frames and its own states, this process whole stacks.
        """

        def ask(body: bytes) -> Any:
            (reply,) = answer([(body, "application/json")], {})
            return reply

        seed = 0 if self.options.sampled else None
        played = episodes.play_episodes(
            self.spec, ask, self.options.episodes, stacks=not is_endpoint, seed=seed
        )
        return Measured(played.summary(), played)

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """How many steps were equal. Raises WorkError with the first that is not."""
        words = episodes.check_same(served.details, local.details)
        return {"steps": sum(map(len, served.details.actions)), "equal": True, "compared": words}


KIND = PolicyKind()
