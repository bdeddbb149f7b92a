"""The training of a policy, whatever the algorithm: iterations, evaluations between them, the report.

An evaluation plays a few episodes without exploration. The best policy of all evaluations is kept, and
training ends as soon as a long evaluation confirms the target return. Ctrl-C ends it too: then the best
policy so far is measured and handed over, if there is one, and the next training of the same model resumes.
"""

import time
from contextlib import closing
from pathlib import Path
from signal import SIGINT
from typing import Any

import gymnasium
import numpy as np

from marina.core.signals import number_of
from training.export.trained import Trained
from training.policies.envs.evaluate import EVALUATION_SEED, episode_returns, record_episode
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.graphs.export import describe_policy, example_inputs, golden_episode, make_act, predict
from training.policies.graphs.policies import GreedyPolicy
from training.policies.loops.checkpoints import Checkpoint
from training.policies.loops.history import History, progress_bar
from training.policies.loops.learner import Learner, LearningPolicy, MakeLearner
from training.policies.loops.selection import Selection
from training.policies.loops.settings import PolicySettings
from training.policies.networks.optim import seeded_single_thread
from training.policies.plots import plot_training
from training.policies.spaces import ActionSpec, ObservationSpec
from training.runs.run import LogMetrics, Run


def train(settings: PolicySettings, run: Run, make_learner: MakeLearner) -> Trained:
    """Learn, and hand over the best policy, measured as it will be served.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces
    don't fit.
    """
    observations = observation_spec(settings.environment, env_kwargs=settings.env_kwargs)
    actions = action_spec(settings.environment, settings.env_kwargs)
    with seeded_single_thread(run.seed):
        learner = make_learner(settings, observations, actions, run.seed)
        selection = Selection(settings, learner.policy)
        history = learn(
            learner, selection, settings, run.checkpoints, run.checkpoint_seconds, run.log_metrics
        )
        policy = measure_policy(selection.best, settings, observations, actions)
    history.tick()
    plot_training(
        history,
        policy.pop("trace"),
        policy.pop("trace_name"),
        selection.target_return,
        run.report,
        loss_name=learner.loss_name,
        exploration_name=learner.exploration_name,
    )
    envs = learner.envs
    policy["metrics"]["steps"] = envs.num_timesteps
    return Trained(
        **policy,
        data={
            "name": settings.environment,
            "source": f"gymnasium {gymnasium.__version__}",
            "licence": "MIT",
            "fingerprint": envs.digest.hexdigest(),
            "transitions": envs.num_timesteps,
            "episodes": envs.num_episodes,
        },
        training={
            "steps_done": envs.num_timesteps,
            "interrupted": history.was_interrupted,
            "seconds": history.seconds,
            "cpu_seconds": history.cpu_seconds,
            "resumed_at": history.resumed_at,
        },
    )


def learn(
    learner: Learner,
    selection: Selection[LearningPolicy],
    settings: PolicySettings,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 20.0,
    log_metrics: LogMetrics = lambda *_: None,
) -> History:
    """Iterate until `selection` confirms the policy, the steps are used up, or Ctrl-C.

    Resumes from the state in the folder `checkpoints`, if there is one, and saves it there from time to time.
    """
    history, envs, is_confirmed = History(), learner.envs, False
    checkpoint = Checkpoint(checkpoints, learner=learner, selection=selection, history=history)
    if checkpoint.load():
        history.resume(envs.num_timesteps)
        envs.resume()
    bar = progress_bar(settings.environment, settings.total_timesteps, learner.exploration_name)
    last_saved = time.monotonic()
    with closing(envs.vector_env), bar as show:
        try:
            while envs.num_timesteps < settings.total_timesteps and not is_confirmed:
                loss, exploration = learner.iteration()
                show(envs.num_timesteps, exploration, envs.last_return)
                history.iterations.append((envs.num_timesteps, exploration, loss))
                next_evaluation = history.next_evaluation(settings.eval_freq)
                if envs.num_timesteps >= min(next_evaluation, settings.total_timesteps):
                    mean, is_confirmed = selection.evaluate(learner.policy)
                    history.evaluations.append((envs.num_timesteps, mean))
                    row = {"evaluation_return": mean, "loss": loss, "exploration": exploration}
                    log_metrics(row, envs.num_timesteps)
                if time.monotonic() - last_saved > checkpoint_seconds:
                    history.tick()
                    checkpoint.save()
                    last_saved = time.monotonic()
        except KeyboardInterrupt as interrupt:
            history.tick()
            checkpoint.save()
            if not history.evaluations or number_of(interrupt) != SIGINT:  # SIGTERM has no time
                raise
            history.was_interrupted = True
    if not history.was_interrupted:
        checkpoint.remove()
    return history


def measure_policy(
    policy: LearningPolicy, settings: PolicySettings, observations: ObservationSpec, actions: ActionSpec
) -> dict[str, Any]:
    """Fields of `Trained`: the graph, its returns and golden samples; and a trace of one episode to plot."""
    graph, env_kwargs = policy.build_graph(), settings.env_kwargs
    inputs = example_inputs(graph, observations, actions)
    act = make_act(graph, inputs)
    returns = episode_returns(
        act, settings.environment, settings.evaluation_episodes, EVALUATION_SEED, env_kwargs=env_kwargs
    )
    obs, action_mask = record_episode(act, settings.environment, EVALUATION_SEED, env_kwargs)
    taken, samples = golden_episode(graph, inputs, actions, obs, action_mask)
    trace, trace_name = taken.reshape(len(taken), -1), "action"
    if isinstance(graph, GreedyPolicy):
        trace, trace_name = predict(graph, inputs, obs, "q_values"), "Q-value of action"
    return {
        **describe_policy(graph, inputs, observations, actions),
        "metrics": returns_summary(returns),
        "samples": samples,
        "trace": trace,
        "trace_name": trace_name,
    }


RETURN_METRICS = ("mean_return", "std_return", "episodes")  # of `returns_summary`


def returns_summary(returns: np.ndarray) -> dict[str, float]:
    """The metrics of evaluation episodes."""
    return {
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std(ddof=1)),
        "episodes": len(returns),
    }
