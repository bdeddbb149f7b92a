"""Optimizers of small networks: all parameters lie in one vector, which one call updates."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import nn

from training.policies.state import Stateful


class Adam(Stateful):
    """Adam (Kingma and Ba 2015, Algorithm 1) on one vector, float32 [n], that is changed in place.

    The moments are kept without their factors 1 - beta, which go into the scalars with the bias corrections:
    fewer passes over memory.
    """

    state_values = ("num_steps",)
    state_arrays = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, params: np.ndarray, eps: float = 1e-5, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.params, self.eps, self.betas, self.num_steps = params, eps, betas, 0
        self.exp_avg, self.exp_avg_sq, self.buffer = (np.zeros_like(params) for _ in range(3))

    def step(self, grad: np.ndarray, learning_rate: float) -> None:
        """One step."""
        self.num_steps += 1
        beta1, beta2 = self.betas
        scale = (1 - beta1) / (1 - beta1**self.num_steps)
        scale_sq = ((1 - beta2) / (1 - beta2**self.num_steps)) ** 0.5
        self.exp_avg *= beta1
        self.exp_avg += grad
        self.exp_avg_sq *= beta2
        self.exp_avg_sq += np.multiply(grad, grad, out=self.buffer)
        np.sqrt(self.exp_avg_sq, out=self.buffer)
        self.buffer += self.eps / scale_sq
        np.divide(self.exp_avg, self.buffer, out=self.buffer)
        self.buffer *= learning_rate * scale / scale_sq
        self.params -= self.buffer


def flatten(*modules: nn.Module) -> nn.Parameter:
    """Move all parameters into one vector, and their gradients into another; returns it.

    The parameters become views of it. Gradients accumulate in place: zero `flat.grad`, never set it to None.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    flat = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    parts = zip(parameters, torch.split(flat.detach(), sizes), torch.split(flat.grad, sizes), strict=True)
    for parameter, values, grad in parts:
        parameter.data, parameter.grad = values.view_as(parameter), grad.view_as(parameter)
    return flat


def clip_grad_norm(grad: np.ndarray, max_norm: float) -> None:
    """Shorten `grad` in place to at most `max_norm`; 0: leave it as it is."""
    if max_norm:
        grad *= min(1.0, max_norm / (np.sqrt(grad @ grad) + 1e-6))


def autograd_step(
    loss: torch.Tensor,
    flat: nn.Parameter,
    optimizer: torch.optim.Optimizer,
    module: nn.Module,
    max_norm: float = 0.0,
) -> None:
    """One step of `optimizer` on `loss` by the parameters of `module`, its gradient clipped to a norm."""
    assert flat.grad is not None
    flat.grad.zero_()
    loss.backward(inputs=list(module.parameters()))  # type: ignore[no-untyped-call]
    if max_norm:
        flat.grad.mul_((max_norm / (flat.grad.norm() + 1e-6)).clamp(max=1.0))
    optimizer.step()


@contextmanager
def seeded_single_thread(seed: int) -> Iterator[None]:
    """Seed torch, use one thread (NumPy too) and flush denormal numbers to zero; restores all afterwards.

    ReLU units that are off for good leave denormal moments in Adam, which cost twice the time of everything
    else.
    """
    num_threads, keeps_denormal = torch.get_num_threads(), bool(torch.full((1,), 1e-40) * 1)
    with torch.random.fork_rng(devices=[]), threadpool_limits(1):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(not keeps_denormal)
            torch.set_num_threads(num_threads)
