"""The settings that every recipe has that learns a policy in an environment."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from marina.core.spec import Section

RESERVED_OPTIONS = {"render_mode", "wrappers"}

# names of earlier versions; an error gives the new one where the recipe has it
RENAMED = {
    "copies": "num_envs",
    "steps": "total_timesteps",
    "screening_every": "eval_freq",
    "screening_episodes": "n_eval_episodes",
    "epochs": "n_epochs",
    "gradient_norm": "max_grad_norm",
    # by the current policy
    "horizon": "n_steps",
    "decay": "anneal_lr",
    "entropy_weight": "ent_coef",
    "value_weight": "vf_coef",
    "log_std": "log_std_init",
    "normalise_observations": "normalize_observations",
    "scale_rewards": "normalize_rewards",
    "normalise_advantages": "normalize_advantage",
    "clip": "clip_range",
    "value_clip": "clip_range_vf",
    "max_divergence": "target_kl",
    "damping": "cg_damping",
    "conjugate_iterations": "cg_max_steps",
    "backtracks": "line_search_max_iter",
    "backtrack": "line_search_shrinking_factor",
    "critic_epochs": "n_critic_updates",
    "critic_batch_size": "batch_size",
    # from a replay buffer
    "replay": "buffer_size",
    "warmup_steps": "learning_starts",
    "phase_steps": "train_freq",
    "polyak": "tau",
    "hold": "random_action_repeat",
    "critics": "n_critics",
    "smoothing": "target_policy_noise",
    "smoothing_clip": "target_noise_clip",
    "prioritised": "prioritized",
    "priority_alpha": "alpha",
    "importance_beta": "beta",
    "n_steps": "n_step_returns",
    "atoms": "num_atoms",
    "support": "v_min, v_max",
    "target_phases": "target_update_interval",
    "adam_epsilon": "adam_eps",
    "epsilon_end": "exploration_final_eps",
    "epsilon_steps": "exploration_steps",
    # with a model
    "planning": "planning_steps",
    "plans": "population_size",
    "deviation": "initial_std",
    "members": "ensemble_size",
    "held_out": "validation_ratio",
}

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

    renamed: ClassVar[dict[str, str]] = RENAMED

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
