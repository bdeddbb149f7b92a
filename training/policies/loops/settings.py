"""The settings that every recipe has that learns a policy in an environment."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from marina.core.spec import Section

RESERVED_OPTIONS = {"render_mode", "wrappers"}

Environment = Annotated[str, Field(description="a gymnasium id; your own: module:Id-v0 or file.py:Id-v0")]
TotalTimesteps = Annotated[
    int, Field(ge=1, description="environment steps at most; fewer once the target is confirmed")
]
NumEnvs = Annotated[int, Field(ge=1, le=1024, description="environments that step together")]
EvalFreq = Annotated[int, Field(ge=1, description="environment steps between two evaluations")]


class EnvironmentSettings(Section):
    """Which environment, and what it is made with."""

    environment: Environment
    environment_options: dict[str, Any] = Field(
        default={},
        description="arguments of the environment, like {sutton_barto_reward: true}, max_episode_steps, and "
        "max_step_seconds of one of its calls (300)",
    )

    @field_validator("environment_options")
    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        if reserved := RESERVED_OPTIONS & options.keys():
            raise ValueError(
                f"{', '.join(sorted(reserved))} can't be set here; "
                "pictures: marina play --gif, wrappers: atari, frame_stack"
            )
        return options


class PolicySettings(EnvironmentSettings):
    """Environment, budget and evaluation."""

    renamed: ClassVar[dict[str, str]] = {
        "copies": "num_envs",
        "steps": "total_timesteps",
        "screening_every": "eval_freq",
        "screening_episodes": "n_eval_episodes",
    }

    environment: Environment = "CartPole-v1"
    atari: bool = Field(
        default=False,
        description="84 x 84 in gray, 4 frames per step: for games of the Arcade Learning Environment",
    )
    frame_stack: int = Field(
        default=0, ge=0, le=64, description="number of successive observations that are stacked; 0: no stack"
    )
    action_masks: bool = Field(
        default=False, description="use the environment's info['action_mask']: only valid actions are taken"
    )
    envpool: bool = Field(
        default=False, description="train in EnvPool's environments, which step faster; needs envpool"
    )
    total_timesteps: TotalTimesteps = 100_000
    target_return: float | None = Field(
        default=None, description="stop once confirmed; default: the environment's own threshold"
    )
    eval_freq: EvalFreq = 256
    n_eval_episodes: int = Field(default=20, ge=2, description="episodes of such an evaluation")
    evaluation_episodes: int = Field(
        default=100, ge=2, description="episodes that confirm the target, and of the reported return"
    )

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The arguments of `envs.make` besides the id."""
        wrappers = {
            "atari_preprocessing": self.atari,
            "frame_stack": self.frame_stack,
            "action_masks": self.action_masks,
        }
        used = {name: value for name, value in wrappers.items() if value}
        return {**self.environment_options, **({"wrappers": used} if used else {})}
