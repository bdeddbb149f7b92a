"""The losses of all algorithms in torch, as their papers write them, for autograd.

Training uses derivatives that are written by hand, because they are several times faster for small networks.
Each function here is the reference of one of them: tests compare values and gradients. Nothing else calls it.

    hand-written                                                            reference
    recipes/a2c.py, reinforce.py, loops/on_policy.py PolicyOptimizer.step   policy_gradient_loss
    recipes/ppo.py clipped_objective_grad, value_loss_grad                  ppo_loss, value_loss
    networks/natural_gradient.py                                            surrogate, mean_kl
    recipes/dqn.py NumpySteps.step                                          dqn_loss
    recipes/dqn.py Learner.targets                                          double_dqn_targets
    networks/q_network.py project_distribution                              project_distribution_loop
    recipes/sac.py targets, update_actor, update_critics                    sac_*, critics_loss
    recipes/td3.py targets, update_actor, update_critics                    td3_*, critics_loss
    networks/dynamics.py EnsembleTrainer.grad_outputs                       dynamics_loss
    networks/curiosity.py MLPRegressor.step                                 regression_loss
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.transforms import TanhTransform
from torch.nn import functional as F


def action_distribution(
    outputs: Tensor, log_std: Tensor | None, branch_sizes: Sequence[int] = ()
) -> list[Distribution]:
    """Independent distributions of an action's parts, by logits or means [B, n].

    One Categorical per branch, or one Gaussian with a state-independent std.
    """
    if log_std is not None:
        return [Independent(Normal(outputs, log_std.exp()), 1)]
    return [Categorical(logits=logits) for logits in torch.split(outputs, [*branch_sizes], 1)]


def log_prob(distributions: list[Distribution], actions: Tensor) -> Tensor:
    """Of actions [B, branches] or [B, n]: [B]."""
    if isinstance(distributions[0], Categorical):
        parts = zip(distributions, actions.unbind(1), strict=True)
        return torch.stack([part.log_prob(action) for part, action in parts]).sum(0)
    return distributions[0].log_prob(actions)


def mean_entropy(distributions: list[Distribution]) -> Tensor:
    """Over the batch, in nats."""
    return torch.stack([part.entropy() for part in distributions]).sum(0).mean()


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-E[log pi(a | s) A] (Williams 1992; Mnih et al. 2016, Algorithm S3)."""
    return -(log_probs * advantages).mean()


def ppo_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """-E[min(r A, clip(r, 1 - epsilon, 1 + epsilon) A)] (Schulman et al. 2017, equation 7)."""
    ratio = (log_probs - old_log_probs).exp()
    clipped_ratio = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.min(ratio * advantages, clipped_ratio * advantages).mean()


def value_loss(
    values: Tensor, returns: Tensor, old_values: Tensor | None = None, clip_range_vf: float | None = None
) -> Tensor:
    """0.5 E[(V - R)^2]; clipped, of the larger error (Engstrom et al. 2020, section 3)."""
    losses = (values - returns) ** 2
    if clip_range_vf is not None:
        assert old_values is not None
        clipped = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
        losses = torch.max(losses, (clipped - returns) ** 2)
    return 0.5 * losses.mean()


def surrogate(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
    """E[pi / pi_old A] (Schulman et al. 2015, equation 14), which TRPO maximizes."""
    return ((log_probs - old_log_probs).exp() * advantages).mean()


def mean_kl(old: list[Distribution], new: list[Distribution]) -> Tensor:
    """E[KL(pi_old, pi)], the constraint of TRPO's equation 14; its Hessian at pi_old is the Fisher matrix."""
    return torch.stack([kl_divergence(p, q) for p, q in zip(old, new, strict=True)]).sum(0).mean()


def dqn_loss(q_values: Tensor, actions: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """E[w Huber(Q(s, a) - y)] (Mnih et al. 2015, Methods; w of Schaul et al. 2016, Algorithm 1)."""
    chosen = q_values.gather(1, actions[:, None]).squeeze(1)
    return (weights * F.huber_loss(chosen, targets, reduction="none")).mean()


def c51_loss(log_probs: Tensor, actions: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """E[w cross-entropy(target distribution, Z(s, a))] (Bellemare et al. 2017, Algorithm 1).

    `log_probs` is [B, n_actions, num_atoms], `targets` [B, num_atoms].
    """
    chosen = log_probs[torch.arange(len(actions)), actions]
    return (weights * -(targets * chosen).sum(1)).mean()


def dqn_targets(returns: Tensor, discounts: Tensor, next_q_target: Tensor) -> Tensor:
    """Y = r + gamma max_a Q_target(s', a) (Mnih et al. 2015, Algorithm 1)."""
    return returns + discounts * next_q_target.max(1).values


def double_dqn_targets(
    returns: Tensor, discounts: Tensor, next_q_online: Tensor, next_q_target: Tensor
) -> Tensor:
    """Y = r + gamma Q_target(s', argmax_a Q(s', a)) (van Hasselt et al. 2016, equation 4)."""
    best = next_q_online.argmax(1, keepdim=True)
    return returns + discounts * next_q_target.gather(1, best).squeeze(1)


def project_distribution_loop(probs: Tensor, reward: float, discount: float, support: Tensor) -> Tensor:
    """One row of Bellemare et al. 2017, Algorithm 1, atom by atom: `probs` and `support` are [num_atoms]."""
    v_min, v_max, delta_z = float(support[0]), float(support[-1]), float(support[1] - support[0])
    projected = torch.zeros_like(probs)
    for prob, atom in zip(probs, support.tolist(), strict=True):
        b = (min(max(reward + discount * atom, v_min), v_max) - v_min) / delta_z
        lower, upper = int(b // 1), int(-(-b // 1))
        if lower == upper:
            projected[lower] += prob
        else:
            projected[lower] += prob * (upper - b)
            projected[upper] += prob * (b - lower)
    return projected


def critics_loss(q_values: Tensor, targets: Tensor) -> Tensor:
    """Sum over critics of 0.5 E[(Q_i(s, a) - y)^2]; `q_values` is [critics, B]."""
    return 0.5 * (q_values - targets).square().mean(1).sum()


def squashed_gaussian(mean: Tensor, log_std: Tensor) -> Distribution:
    """Tanh of a Gaussian, over components (Haarnoja et al. 2018, appendix C)."""
    return Independent(TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1)), 1)


def sac_targets(
    rewards: Tensor,
    not_terminated: Tensor,
    gamma: float,
    next_q: Tensor,
    next_log_probs: Tensor,
    alpha: float,
) -> Tensor:
    """Y = r + gamma (min_i Q_target_i(s', a') - alpha log pi(a' | s')) (Haarnoja et al. 2018, 3 and 5).

    `next_q` is [critics, B], the rest [B].
    """
    return rewards + gamma * not_terminated * (next_q.amin(0) - alpha * next_log_probs)


def sac_actor_loss(q_values: Tensor, log_probs: Tensor, alpha: float) -> Tensor:
    """E[alpha log pi(a | s) - min_i Q_i(s, a)] (Haarnoja et al. 2018, equation 7)."""
    return (alpha * log_probs - q_values.amin(0)).mean()


def sac_temperature_loss(log_alpha: Tensor, log_probs: Tensor, target_entropy: float) -> Tensor:
    """-log alpha E[log pi(a | s) + target entropy]: equation 18 with log alpha in the place of alpha."""
    return -(log_alpha * (log_probs.detach().mean() + target_entropy))


def td3_targets(rewards: Tensor, not_terminated: Tensor, gamma: float, next_q: Tensor) -> Tensor:
    """Y = r + gamma min_i Q_target_i(s', a~) (Fujimoto et al. 2018, equation 10)."""
    return rewards + gamma * not_terminated * next_q.amin(0)


def td3_target_actions(actions: Tensor, noise: Tensor, std: float, clip: float) -> Tensor:
    """a~ = pi_target(s') + clip(noise, -c, c), within -1..1 (Fujimoto et al. 2018, equation 14)."""
    return (actions + (std * noise).clamp(-clip, clip)).clamp(-1, 1)


def td3_actor_loss(critic: Callable[[Tensor], Tensor], actions: Tensor) -> Tensor:
    """-E[Q_1(s, pi(s))] (Silver et al. 2014, equation 16)."""
    return -critic(actions).mean()


def dynamics_loss(outputs: Tensor, targets: Tensor, terminated: Tensor | None) -> Tensor:
    """Mean squared error of changes and rewards, plus the cross-entropy of terminations, summed over members.

    Nagabandi et al. 2018, equation 2, on normalized targets. `outputs` is [members, B, w + 2], `targets`
    [members, B, w + 1], `terminated` [members, B], None where no episode has terminated.
    """
    loss = (outputs[..., :-1] - targets).square().mean((1, 2)).sum()
    if terminated is not None:
        cross_entropy = F.binary_cross_entropy_with_logits(outputs[..., -1], terminated, reduction="none")
        loss = loss + cross_entropy.mean(1).sum()
    return loss


def regression_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """E[|f(x) - y|^2]: of random network distillation's predictor (Burda et al. 2018, section 2.2)."""
    return (predictions - targets).square().sum(1).mean()
