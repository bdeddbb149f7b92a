"""Explanations of policies: which parts of an observation matter, and which policies can't be explained."""

import pytest
import torch
from torch import nn

from handlers.kinds.policy_saliency import policy_saliency
from handlers.protocol.errors import ModelError, NotSupported
from tests.support.served_graphs import served
from tests.support.toy_policies import Balance


def test_the_lead_of_an_action_comes_from_angle_and_its_speed() -> None:
    module = served(Balance(), torch.zeros(2, 4))

    why = policy_saliency(module, (torch.tensor([[9.0, -9.0, 0.1, 0.2]]),))
    other = policy_saliency(module, (torch.tensor([[0.0, 0.0, -0.1, 0.0]]),))

    assert (why.action, why.gradient.tolist()) == (1, [0, 0, 4, 2])
    torch.testing.assert_close(why.saliency, torch.tensor([0, 0, 2 / 3, 1 / 3]))
    assert (other.action, other.gradient.tolist()) == (0, [0, 0, -4, -2])
    assert all(weight.grad is None for weight in module.parameters())


class Scored(nn.Module):
    """Three actions with the scores x, y and z of the observation, among those that are allowed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, observation: torch.Tensor, action_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = observation.softmax(1) if self.name == "probabilities" else observation * 1
        return {
            "action": scores.masked_fill(~action_mask, -1).argmax(1),
            self.name: scores,
            "value": observation.sum(1),
        }


@pytest.mark.parametrize("name", ["q_values", "logits", "probabilities"])
def test_the_lead_is_that_over_the_best_other_action_which_is_allowed(name: str) -> None:
    """The lead in log-probability is that in logits."""
    module = served(Scored(name), torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    observation = torch.tensor([[3.0, 2.0, 1.0]])

    def gradient(*mask: bool) -> list[float]:
        return [
            round(value, 5)
            for value in policy_saliency(module, (observation, torch.tensor([mask]))).gradient.tolist()
        ]

    assert gradient(True, True, True) == [1, -1, 0]
    assert gradient(True, False, True) == [1, 0, -1]
    assert gradient(False, True, True) == [0, 1, -1]


def test_where_no_other_action_is_allowed_nothing_moves_it() -> None:
    module = served(Scored("q_values"), torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))

    why = policy_saliency(module, (torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[False, True, False]])))

    assert (why.action, why.gradient.tolist(), why.saliency.tolist()) == (1, [0, 0, 0], [0, 0, 0])


class Masking(nn.Module):
    """Gives the scores of forbidden actions as the least that there is."""

    def __init__(self, name: str, forbidden: list[bool]) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("forbidden", torch.tensor(forbidden))

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = observation.masked_fill(self.forbidden, -torch.inf)
        return {
            "action": scores.argmax(1),
            self.name: scores.softmax(1) if self.name == "probabilities" else scores,
        }


@pytest.mark.parametrize(
    ("forbidden", "gradient"), [([False, True, False], [1, 0, -1]), ([False, True, True], [0, 0, 0])]
)
@pytest.mark.parametrize("name", ["logits", "probabilities"])
def test_a_forbidden_action_is_no_rival(name: str, forbidden: list[bool], gradient: list[int]) -> None:
    module = served(Masking(name, forbidden), torch.zeros(2, 3))

    with torch.inference_mode():
        why = policy_saliency(module, (torch.tensor([[3.0, 2.0, 1.0]]),))

    torch.testing.assert_close(why.gradient, torch.tensor(gradient, dtype=torch.float32))


class Steering(nn.Module):
    """Action [B, 2] = matrix times observation [B, 1, 3]."""

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "action": observation.flatten(1) @ torch.tensor([[3.0, 0.0, 0.0], [4.0, 2.0, 0.0]]).T,
            "value": observation.sum((1, 2)),
        }


def test_continuous_action_is_explained_by_its_gradient() -> None:
    """A continuous action is explained by how far each part of the observation moves it."""
    why = policy_saliency(served(Steering(), torch.zeros(2, 1, 3)), (torch.tensor([[[1.0, 1.0, 1.0]]]),))

    assert (why.action, why.gradient.tolist()) == ([3, 6], [[5, 2, 0]])
    torch.testing.assert_close(why.saliency, torch.tensor([[5 / 7, 2 / 7, 0]]))


class Bare(nn.Module):
    """Gives its action alone, or with scores that count only whether something is observed, or takes one
    action per observation.
    """

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.gives == "nothing":
            return {"action": observation.argmax(1), "value": observation.sum(1).float()}
        if self.gives == "counts":
            return {"action": observation.argmax(1), "q_values": (observation > 0).float()}
        return {"action": (observation > 0).long(), "logits": observation * 2}


@pytest.mark.parametrize(
    ("gives", "observation", "words"),
    [
        ("nothing", torch.zeros(2, 3), "no scores of its actions"),
        ("several actions", torch.zeros(2, 3), "no scores of its actions"),
        ("counts", torch.zeros(2, 3), "no gradient with respect to the observation"),
        ("nothing", torch.zeros(2, 3, dtype=torch.int64), "observes whole numbers"),
    ],
)
def test_a_policy_without_gradients_is_refused_with_what_to_call(
    gives: str, observation: torch.Tensor, words: str
) -> None:
    with pytest.raises(NotSupported, match=f"{words}.*call /predictions"):
        policy_saliency(served(Bare(gives), observation), (observation[:1],))


def test_a_gradient_that_is_not_finite_is_the_policys_fault() -> None:
    class Root(nn.Module):
        def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"action": observation.sqrt()}

    with pytest.raises(ModelError, match="not finite"):
        policy_saliency(served(Root(), torch.ones(2, 3)), (torch.zeros(1, 3),))
