"""Whatever is sent, a bad request fails alone: every kind of handler with the whole corpus, and with mixtures that were never seen."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor

from tests.bad_inputs import bad, corpus, good, refused_in_front
from tests.good_inputs import payload
from tests.sent_requests import JSON, Bad, Part, Sent, row_of
from tests.strategies import OPTIONS, as_json, damaged, documents, pictures, tried, words

from bundle_clips import ClipInput
from bundle_golden import difference
from bundle_handler import BundleHandler
from bundle_images import ImageInput
from bundle_runtimes import TorchRuntime
from classifier_handler import ClassifierHandler
from detector_handler import DetectorHandler
from policy_handler import PolicyHandler
from segmenter_handler import SegmenterHandler
from video_classifier_handler import VideoClassifierHandler

KINDS = ("classifier", "detector", "segmenter", "policy", "video_classifier")
CLIENT_ERRORS = {400, 413, 415}


class Glance(torch.nn.Module):
    """Ten classes by one layer of strokes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.strokes, self.last = torch.nn.Conv2d(1, 8, 3, stride=2), torch.nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 1, 16, 16] -> logits [B, 10]."""
        strokes: torch.Tensor = self.strokes(images.float() / 64).relu()
        return self.last(strokes.mean((2, 3)))  # type: ignore[no-any-return]


class Grid(torch.nn.Module):
    """A box for each of 4 x 5 cells, of two classes: dark and light."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B, 3, 32, 40] -> boxes [B, 20, 4], scores [B, 20, 2]."""
        light = torch.nn.functional.avg_pool2d(images.float().mean(1, keepdim=True) / 255, 8).flatten(1)
        top, left = torch.arange(0, 32, 8.0).repeat_interleave(5), torch.arange(0, 40, 8.0).repeat(4)
        boxes = torch.stack([left, top, left + 8, top + 8], 1)
        return boxes.repeat(images.shape[0], 1, 1), torch.stack([1 - light, light], 2)


class Shades(torch.nn.Module):
    """Three classes by brightness, for cells of 4 x 4."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, 32, 40] -> logits [B, 3, 8, 10]."""
        light = torch.nn.functional.avg_pool2d(images.float().mean(1, keepdim=True) / 255, 4)
        return torch.cat([0.4 - light, 0.2 - (light - 0.5).abs(), light - 0.6], 1)


class Drift(torch.nn.Module):
    """Three classes by how the lower half brightens."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 4, 3, 16, 16] -> logits [B, 3]."""
        light = clips[:, :, :, 8:].float().mean((2, 3, 4)) / 64
        change = light[:, 2:].sum(1) - light[:, :2].sum(1)
        return torch.stack([change, 0 * change, -change], 1)


class Steer(torch.nn.Module):
    """Two actions, of which some are allowed; finite for all that float32 can say."""

    def forward(self, observations: torch.Tensor, action_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """float32 [B, 4], bool [B, 2] -> action [B], q_values [B, 2]."""
        lean = (observations.clamp(-10, 10) * torch.tensor([0.1, 0.2, 2.0, 1.0])).sum(1)
        values = torch.stack([-lean, lean], 1)
        return {"action": values.masked_fill(~action_mask, -torch.inf).argmax(1), "q_values": values}


CONFIGS: dict[str, dict[str, Any]] = {
    "classifier": {
        "preprocess_config": ImageInput(16, 16, "L", "ink").as_config(),
        "postprocess_config": {"type": "classification", "top_k": 5},
        "class_mapping": {str(digit): str(digit) for digit in range(10)},
    },
    "detector": {
        "preprocess_config": ImageInput(32, 40, "RGB", "letterbox").as_config(),
        "postprocess_config": {
            "type": "detection",
            **{"score_threshold": 0.6, "nms_threshold": 0.5, "candidates": 100, "detections_per_image": 20},
        },
        "class_mapping": {"0": "dark", "1": "light"},
    },
    "segmenter": {
        "preprocess_config": ImageInput(32, 40, "RGB", "letterbox").as_config(),
        "postprocess_config": {"type": "segmentation"},
        "class_mapping": {"0": "dark", "1": "middling", "2": "light"},
    },
    "video_classifier": {
        "preprocess_config": ClipInput(4, ImageInput(16, 16)).as_config(),
        "postprocess_config": {"type": "classification", "top_k": 2},
        "class_mapping": {"0": "brightens", "1": "stays", "2": "darkens"},
    },
    "policy": {
        "preprocess_config": {
            **{"input": "observation", "inputs": ["observation", "action_mask"], "shape": [4], "dtype": "float32"},
            "environment": "none",
        },
        "postprocess_config": {"type": "policy", "action_space": {"type": "discrete", "n": 2}, "outputs": ["q_values"]},
    },
}
GRAPHS: dict[str, tuple[type[BundleHandler], torch.nn.Module, tuple[torch.Tensor, ...]]] = {
    "classifier": (ClassifierHandler, Glance(), (torch.zeros(2, 1, 16, 16, dtype=torch.uint8),)),
    "detector": (DetectorHandler, Grid(), (torch.zeros(2, 3, 32, 40, dtype=torch.uint8),)),
    "segmenter": (SegmenterHandler, Shades(), (torch.zeros(2, 3, 32, 40, dtype=torch.uint8),)),
    "video_classifier": (VideoClassifierHandler, Drift(), (torch.zeros(2, 4, 3, 16, 16, dtype=torch.uint8),)),
    "policy": (PolicyHandler, Steer(), (torch.zeros(2, 4), torch.ones(2, 2, dtype=torch.bool))),
}


@dataclass
class Served:
    """A handler, and what each request gets when it is sent alone."""

    handler: BundleHandler
    folder: Path
    known: dict[str, tuple[int, Any]] = field(default_factory=dict)  # by the request's name

    def alone(self, request: Sent) -> tuple[int, Any]:
        """What a request of the corpus gets alone."""
        if request.name not in self.known:
            (self.known[request.name],) = self.answers([request])
        return self.known[request.name]

    def answers(self, requests: list[Sent]) -> list[tuple[int, Any]]:
        """(status, parsed body) of each request of one batch. Raises for JSON that is not finite."""
        rows_, headers_ = zip(*map(row_of, requests), strict=True)
        context = Context("toy", str(self.folder), {}, 8, None, "0.12.0")
        context.request_ids = {index: f"id-{index}" for index in range(len(requests))}
        context.request_processor = [RequestProcessor(dict(one)) for one in headers_]
        bodies = self.handler.handle(list(rows_), context)
        return [
            (context.get_response_status(index)[0] or 200, json.loads(body, parse_constant=_refuse)) for index, body in enumerate(bodies)
        ]

    def mixed_up(self, requests: list[Sent], alone: Mapping[str, tuple[int, Any]]) -> list[str]:
        """Where the answers to one batch are not those that each request gets alone."""
        found = []
        for index, (one, (status, answer)) in enumerate(zip(requests, self.answers(requests), strict=True)):
            if status != alone[one.name][0]:
                found.append(f"{one.name}: {status} instead of {alone[one.name][0]}")
            elif status == 200:
                found.append(difference(alone[one.name][1], answer, one.name))
            elif answer != {**alone[one.name][1], "request_id": f"id-{index}"}:
                found.append(f"{one.name}: {answer} instead of {alone[one.name][1]}")
        return [one for one in found if one]


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Served]:
    """Each kind of handler with an untrained graph, as an archive would have it."""
    kind = request.param
    make, module, example = GRAPHS[kind]
    folder = tmp_path_factory.mktemp(kind)
    files = {"model_metadata": {"name": "toy", "version": "1.0", "kind": kind, "max_batch": 8}, **CONFIGS[kind]}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    handler = make()
    handler.read_configs(folder)
    batch = tuple({0: torch.export.Dim("batch", min=1, max=8)} for _ in example)
    handler.model = TorchRuntime(torch.export.export(module.eval(), example, dynamic_shapes=batch).module())
    return kind, Served(handler, folder)


def test_every_bad_request_is_refused_with_its_status_and_type(served: tuple[str, Served]) -> None:
    kind, one = served
    found = {}

    for request in bad(kind):
        status, answer = one.alone(request)
        refused = status == request.status and answer.keys() == {"code", "type", "message", "request_id"}
        told = refused and (answer["code"], answer["type"], answer["request_id"]) == (status, request.type, "id-0")
        if not told or not 10 < len(answer["message"]) < 600 or "Traceback" in answer["message"]:
            found[request.name] = (status, answer)

    assert found == {}


def test_every_good_request_is_answered(served: tuple[str, Served]) -> None:
    kind, one = served

    assert {request.name: one.alone(request) for request in good(kind) if one.alone(request)[0] != 200} == {}


def test_in_every_batch_the_bad_fail_alone_and_the_good_get_the_answers_that_they_get_alone(served: tuple[str, Served]) -> None:
    kind, one = served
    everything: list[Sent] = [*bad(kind), *good(kind) * 5]
    random.Random(0).shuffle(everything)
    alone = {request.name: one.alone(request) for request in everything}

    mixed = [found for start in range(0, len(everything), 12) for found in one.mixed_up(everything[start : start + 12], alone)]

    assert mixed == []


@st.composite
def strange(draw: Callable[..., Any], kind: str) -> Sent:
    """A request that may be good or bad, of no name yet."""
    typed = (JSON,) if draw(st.booleans()) else ()
    how = draw(st.integers(0, 4))
    if how == 0:
        return Sent("", as_json(draw(documents)), typed)
    if how == 1:
        return Sent("", draw(damaged(st.sampled_from([one.body for one in good(kind) if one.body]))), typed)
    if how == 2:
        return Sent("", parts=(Part("data", draw(pictures)), *draw(st.just(()) | st.just((Part("top_k", b"2"),)))))
    if how == 3:
        name, value = draw(st.sampled_from(sorted(OPTIONS))), draw(words.filter(str.isprintable))
        return Sent("", payload(kind), (*typed, (name, value.encode().decode("latin-1"))))
    return Sent("", draw(pictures), path=draw(st.sampled_from(["predictions", "explanations"])))


@tried(40)
@given(data=st.data())
def test_any_mixture_in_any_order_is_answered_as_each_is_alone(served: tuple[str, Served], data: st.DataObject) -> None:
    kind, one = served
    known = st.sampled_from(good(kind)) | st.sampled_from(bad(kind))
    drawn_ = data.draw(st.lists(known | strange(kind), min_size=1, max_size=8))
    requests = [
        Sent(f"{index}", sent.body, sent.headers, sent.kinds, sent.parts, sent.method, sent.path) for index, sent in enumerate(drawn_)
    ]
    requests = [sent if isinstance(sent, Bad) and sent.row is not None else new for sent, new in zip(drawn_, requests, strict=True)]

    alone = {request.name: one.answers([request])[0] for request in requests}

    assert {status for status, _ in alone.values()} <= CLIENT_ERRORS | {200}
    assert one.mixed_up(requests, alone) == []


def test_the_corpus_is_as_large_as_it_says_and_names_what_torchserve_refuses_by_itself() -> None:
    assert len(corpus()) > 1000
    assert all(len(bad(kind)) > 400 for kind in KINDS)
    assert len(refused_in_front()) > 8
    assert len({(one.content(), one.method, one.path, one.kinds) for one in corpus()}) == len(corpus())
