"""Explanations of pictures: which layer is used, and heat maps that highlight the evidence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from handlers.kinds.explanations import GradCam
from handlers.protocol.errors import BadRequest, ModelError, NotSupported
from tests.support.served_graphs import served


def pictures(channels: int = 1, height: int = 16, width: int = 32) -> torch.Tensor:
    return torch.randint(
        0, 256, (2, channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


class Stripes(nn.Module):
    """uint8 [B, 1, H, W] -> how much upright, how much lying stripes there are, and minus their sum:
    logits [B, 3].
    """

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.head = nn.Linear(2, 3, bias=False)
        upright = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        self.edges.weight.data = torch.stack([upright, upright.T])[:, None]
        self.head.weight.data = torch.tensor([[1.0, 0], [0, 1], [-1, -1]])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        places = functional.relu(self.edges(images.float() / 255), inplace=True)
        logits: torch.Tensor = self.head(functional.max_pool2d(places, 2).mean((2, 3)))
        return logits


def striped() -> torch.Tensor:
    """Upright stripes at the left, lying ones at the right, uint8 [1, 1, 16, 32]."""
    image = torch.zeros(1, 1, 16, 32, dtype=torch.uint8)
    image[..., 2:14, 2:14:4] = 255
    image[..., 2:14:4, 18:30] = 255
    return image


def test_the_heat_of_a_class_lies_where_its_evidence_is() -> None:
    cam = GradCam(served(Stripes(), pictures()))

    upright, lying = cam(striped(), 0).values, cam(striped(), 1).values

    assert (cam.method, upright.shape, upright.dtype) == ("grad-cam", (16, 32), np.float32)
    assert upright.max() == lying.max() == 1
    assert upright[:, :16].sum() > 0.85 * upright.sum()  # the rest are the ends of the other stripes
    assert lying[:, 16:].sum() > 0.85 * lying.sum()


def test_grad_cam_is_the_weighted_sum_of_its_equations() -> None:
    """One channel decides a class here, so that its heat is that channel's activation."""
    network = Stripes()

    heat = GradCam(served(network, pictures()))(striped(), 1)
    activation = functional.relu(network.edges(striped().float() / 255))[0, 1].detach()

    np.testing.assert_allclose(heat.values, activation / activation.max(), atol=1e-6)
    torch.testing.assert_close(heat.logits, network(striped())[0].detach())


def test_the_most_probable_class_is_explained_unless_another_is_asked_for() -> None:
    cam = GradCam(served(Stripes(), pictures()))
    turned = striped()
    turned[..., 16:] = 0

    assert cam(turned).target == int(cam(turned).logits.argmax()) == 0
    assert cam(turned, 1).target == 1


def test_where_nothing_speaks_for_a_class_there_is_no_heat() -> None:
    assert GradCam(served(Stripes(), pictures()))(striped(), 2).values.max() == 0


@pytest.mark.parametrize("target", [-1, 3])
def test_a_class_that_there_is_not_is_refused_with_those_that_are(target: int) -> None:
    with pytest.raises(BadRequest, match="send a class index from 0 to 2"):
        GradCam(served(Stripes(), pictures()))(striped(), target)


def two_stages(last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, 2, 1), last
    )


class Normalised(nn.Module):
    """uint8 pictures to floats in 0..1, written in place, then `network`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images.float().sub_(127.5).div_(127.5))
        return logits


class Scaled(nn.Module):
    """Flattens, and writes into what it was given."""

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        return places.flatten(1).mul_(2)


@pytest.mark.parametrize("call", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(
    ("make", "method"),
    [
        (lambda: two_stages(nn.Sequential(Scaled(), nn.Linear(6 * 4 * 8, 3))), "grad-cam"),
        (lambda: nn.Sequential(Scaled(), nn.Linear(512, 3)), "saliency"),
    ],
)
def test_an_explanation_leaves_no_trace_in_the_model(
    make: Callable[[], nn.Module], method: str, call: Callable[[], Any]
) -> None:
    network = make()
    module = served(Normalised(network), pictures())
    before, state = module(pictures()), {name: tensor.clone() for name, tensor in module.state_dict().items()}
    requires = [weight.requires_grad for weight in module.parameters()]

    with call():
        heat = GradCam(module)(pictures()[:1])

    assert (heat.method, heat.values.max()) == (method, 1)
    assert any(requires)  # training leaves it so; the explanation must not add to gradients
    assert [weight.requires_grad for weight in module.parameters()] == requires
    assert all(weight.grad is None for weight in module.parameters())
    assert not heat.logits.requires_grad
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(module(pictures()), before)


def test_without_places_the_gradient_of_the_pixels_says_where() -> None:
    """A linear network that looks at two pixels, at one of them harder."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16 * 32, 2))
    weight = torch.zeros(2, 16, 32)
    weight[1, 3, 20], weight[1, 12, 5] = -4, 2
    network[1].weight.data = weight.flatten(1)  # type: ignore[union-attr]
    module = served(Normalised(network), pictures())

    heat = GradCam(module)(pictures()[:1], 1)

    assert heat.method == "saliency"
    assert np.unravel_index(heat.values.argmax(), (16, 32)) == (3, 20)
    assert heat.values[12, 5] == pytest.approx(0.5, abs=0.01)
    assert 2 < (heat.values > 0.01).sum() < 40  # blurred a little


class Tokens(nn.Module):
    """Patches become tokens that attend to each other, as in a vision transformer without a class token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images.float() / 255).flatten(2).transpose(1, 2)
        logits: torch.Tensor = self.head(self.block(tokens).mean(1))
        return logits


class ChannelsLast(nn.Module):
    """Works on [B, h, w, C] after its patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(1, 24, 4, 4), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        places = self.patches(images.float() / 255).permute(0, 2, 3, 1)
        logits: torch.Tensor = self.head(self.mix(places).relu().mean((1, 2)))
        return logits


@pytest.mark.parametrize("network", [Tokens, ChannelsLast])
def test_the_patches_of_a_transformer_are_no_last_layer(network: type[nn.Module]) -> None:
    heat = GradCam(served(network(), pictures()))(pictures()[:1])

    assert (heat.method, heat.values.shape, heat.values.max()) == ("saliency", (16, 32), 1)


class Branched(nn.Module):
    """A trunk of five channels, and a convolution beside which the trunk goes on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.branch, self.head = (
            nn.Conv2d(1, 5, 3, 2, 1),
            nn.Conv2d(5, 7, 3, 1, 1),
            nn.Linear(12, 3),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        trunk = self.trunk(images.float() / 255).relu()
        logits: torch.Tensor = self.head(torch.cat([trunk.mean((2, 3)), self.branch(trunk).mean((2, 3))], 1))
        return logits


def test_the_last_layer_is_one_that_nothing_goes_round() -> None:
    layer = GradCam(served(Branched(), pictures())).layer

    assert tuple(layer.meta["val"].shape[1:]) == (5, 8, 16)


@pytest.mark.parametrize(
    ("architecture", "operation", "shape"),
    [
        ("mobilenet_v3_small", "hardswish", (576, 2, 2)),
        ("squeezenet1_1", "relu", (5, 3, 3)),
        ("shufflenet_v2_x0_5", "relu", (1024, 2, 2)),
    ],
)
def test_torchvisions_networks_have_their_last_layer_found(
    architecture: str, operation: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(architecture, weights=None, num_classes=5)

    cam = GradCam(served(Normalised(network), pictures(3, 64, 64)))
    heat = cam(pictures(3, 64, 64)[:1])

    assert operation in str(cam.layer.target)
    assert (cam.method, tuple(cam.layer.meta["val"].shape[1:]), heat.values.shape) == (
        "grad-cam",
        shape,
        shape[1:],
    )


class Blind(nn.Module):
    """Answers without looking, or by comparing, which has no gradient."""

    def __init__(self, compares: bool) -> None:
        super().__init__()
        self.compares = compares

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (
            (images.float().flatten(1)[:, :3] > 9).float()
            if self.compares
            else images.new_ones(images.shape[0], 3).float()
        )


@pytest.mark.parametrize("compares", [True, False])
def test_a_model_without_gradients_is_refused(compares: bool) -> None:
    with pytest.raises(NotSupported, match=r"no gradient with respect to the picture.*call /predictions"):
        GradCam(served(Blind(compares), pictures()))(pictures()[:1])


class Overflowing(Stripes):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).sub(1e9).sqrt()


def test_what_is_not_finite_is_the_models_fault() -> None:
    with pytest.raises(ModelError, match="not finite"):
        GradCam(served(Overflowing(), pictures()))(striped())
