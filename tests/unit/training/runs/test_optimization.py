"""The settings of a fit's optimization: optimizers, steps of several batches, clipping, recomputed
activations, the learning rate range test.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from marina.core.errors import CallError
from marina.core.spec import validate
from training.runs import batches
from training.runs.fitting import fit
from training.runs.loss_learning import LossModule
from training.runs.optimizers import MuonAndAdamW, make_optimizer
from training.runs.recomputation import blocks_of, recomputed_activations
from training.runs.run import Run
from training.runs.schedules import FitSettings

NAMES = ("adamw", "adam", "nadam", "rmsprop", "sgd", "muon")


class Rows(batches.Batches[torch.Tensor]):
    """Eight batches of rows, the same in every epoch."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.rows = torch.randn(8, size, 4, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.rows)

    def order(self) -> list[list[int]]:
        return [[step] for step in torch.randperm(len(self.rows), generator=self.generator).tolist()]

    def batch(self, rows: Any) -> torch.Tensor:
        return self.rows[rows[0]]


class Sums(LossModule):
    """Learns the sum of a row; validates on what it learned from."""

    def __init__(self, model: nn.Module, settings: FitSettings) -> None:
        super().__init__(model, settings, None)

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch)[:, 0] - 3 * batch.sum(1)).square().mean()

    def validation_loss(self) -> float:
        return sum(self.losses) / len(self.losses)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))


def learned(folder: Path, rows: Rows | None = None, **settings: Any) -> Sums:
    settings = {"schedule": "constant", "epochs": 4, **settings}
    learner = Sums(network(), FitSettings(**settings))
    fit(learner, rows or Rows(), Run(folder))
    return learner


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_learns(name: Any, schedule: Any, tmp_path: Path) -> None:
    rate = {"sgd": 0.005, "muon": 0.1}.get(name, 0.02)
    learner = learned(tmp_path, optimizer=name, learning_rate=rate, schedule=schedule, epochs=12)

    assert learner.history[-1]["loss"] < 0.8 * learner.history[0]["loss"]


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 3))
    optimizer = make_optimizer("muon", [{"params": [*model.parameters()], "lr": 0.1}], model, 0.01)
    assert isinstance(optimizer, MuonAndAdamW)
    muon, adamw = ({id(p) for g in part.param_groups for p in g["params"]} for part in optimizer.parts)

    assert muon == {id(model[2].weight)}
    assert adamw == {id(each) for each in model.parameters()} - muon


def test_muon_is_refused_where_there_is_no_matrix() -> None:
    model = nn.Conv2d(1, 1, 3)

    with pytest.raises(CallError, match="say adamw"):
        make_optimizer("muon", [{"params": [*model.parameters()], "lr": 0.1}], model, 0.0)


def test_muon_resumes_with_its_state_and_follows_its_schedule() -> None:
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for step in range(count):
            optimizer.zero_grad()
            model(torch.full((2, 4), 1.0 + step)).sum().backward()
            optimizer.step()

    model = network()
    whole = make_optimizer("muon", [{"params": [*model.parameters()], "lr": 0.1}], model, 0.01)
    steps(model, whole, 3)
    other = copy.deepcopy(model)
    resumed = make_optimizer("muon", [{"params": [*other.parameters()], "lr": 0.1}], other, 0.01)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for optimizer in (whole, resumed):
        for group in optimizer.param_groups:
            group["lr"] = 0.02
    steps(model, whole, 2)
    steps(other, resumed, 2)

    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_momentum_is_refused_where_the_optimizer_has_its_own() -> None:
    with pytest.raises(CallError, match="momentum is of sgd, muon, rmsprop"):
        validate(FitSettings, {"momentum": 0.8}, "training")


def test_two_batches_of_a_step_learn_what_one_of_both_does(tmp_path: Path) -> None:
    """Also what the moving average of the weights is."""
    halves, whole = Rows(), Rows()
    whole.rows = halves.rows.reshape(4, 16, 4)
    halves.order = lambda: [[step] for step in range(8)]  # type: ignore[method-assign]
    whole.order = lambda: [[step] for step in range(4)]  # type: ignore[method-assign]
    common: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.01, "ema_decay": 0.5}
    two = learned(tmp_path, halves, accumulated_batches=2, **common)
    one = learned(tmp_path, whole, **common)

    for name, value in two.average.state_dict().items():
        torch.testing.assert_close(value, one.average.state_dict()[name])


class Cut(Exception):
    """In the place of a kill."""


def test_a_run_that_is_cut_within_a_step_of_several_batches_resumes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"accumulated_batches": 4, "epochs": 3, "ema_decay": 0.5}
    whole = learned(tmp_path, **options)
    run = Run(tmp_path, checkpoints=tmp_path / "checkpoints", checkpoint_seconds=0)
    taken: list[int] = []

    def cut(batch: Any, batch_idx: int) -> None:
        taken.append(batch_idx)
        if len(taken) == 15:  # the third batch of a step of the second epoch
            raise Cut

    learner = Sums(network(), FitSettings(schedule="constant", **options))
    learner.on_train_batch_start = cut  # type: ignore[method-assign, assignment]
    with pytest.raises(Cut):
        fit(learner, Rows(), run, fingerprint="rows")
    resumed = Sums(network(1), FitSettings(schedule="constant", **options))
    fit(resumed, Rows(), run, fingerprint="rows")

    assert len(resumed.history) == 3
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name])


def test_long_gradients_are_cut(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "epochs": 1}
    start = torch.cat([each.detach().flatten() for each in network().parameters()])
    cut = learned(tmp_path, learning_rate=0.1, max_grad_norm=0.01, **options)
    moved = torch.cat([each.detach().flatten() for each in cut.model.parameters()]) - start

    assert 0 < float(moved.norm()) <= 8 * 0.1 * 0.01 * 1.001


class Blocks(nn.Module):
    """Two blocks with what makes recomputation hard: batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(*self._layers()) for _ in range(2)))

    @staticmethod
    def _layers() -> list[nn.Module]:
        return [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3)]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.blocks(pictures)


def test_recomputed_activations_change_nothing_but_memory() -> None:
    torch.manual_seed(0)
    plain = Blocks()
    other = copy.deepcopy(plain)
    pictures = torch.randn(4, 3, 16, 16)

    def kept(model: nn.Module) -> int:
        """Bytes that a step keeps for its backward pass."""
        sizes: list[int] = []

        def count(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(pictures).square().mean()
        loss.backward()
        return sum(sizes)

    bytes_of_plain = kept(plain)
    with recomputed_activations(other) as count:
        bytes_of_other = kept(other)

    assert count == 2
    assert bytes_of_other < bytes_of_plain
    assert all(
        torch.equal(each.grad, same.grad)
        for each, same in zip(plain.parameters(), other.parameters(), strict=True)
    )
    assert all(map(torch.equal, plain.buffers(), other.buffers()))
    assert not any("forward" in block.__dict__ for block in blocks_of(other))


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(CallError, match="activation_checkpointing finds no blocks"):
        recomputed_activations(network()).__enter__()


def test_the_range_test_finds_a_rate_and_leaves_no_trace(tmp_path: Path) -> None:
    rows, model = Rows(), network()
    learner = Sums(model, FitSettings(find_learning_rate=True, learning_rate=1e-6, ema_decay=0.5, epochs=4))
    seen: list[Any] = []

    def started() -> None:
        seen.append((copy.deepcopy(model.state_dict()), rows.generator.get_state(), len(learner.losses)))

    learner.on_train_start = started  # type: ignore[method-assign]
    fit(learner, rows, Run(tmp_path))
    state, generator, losses = seen[-1]

    assert 1e-5 < learner.settings.learning_rate < 1
    assert (tmp_path / "learning_rate.png").stat().st_size > 1000
    assert all(torch.equal(value, network().state_dict()[name]) for name, value in state.items())
    assert torch.equal(generator, Rows().generator.get_state())
    assert losses == 0
    assert learner.history[-1]["loss"] < 0.9 * learner.history[0]["loss"]
