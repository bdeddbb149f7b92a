"""Measures a model through its endpoint, beside the same measurement in this process.

Both send the same requests - files as they are, pictures and clips as PNG, observations of a real environment - and both answers are
measured by the same code. In process means the export's own program behind the serving code, without a server.
"""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from marina.client import Client
from marina.episodes import Ask, play_episodes
from marina.errors import CallError, WorkError
from marina.spec import Spec

Rows = list[tuple[bytes, str]]  # bodies with their content types
Answer = Callable[[Rows, dict[str, str]], list[Any]]  # (rows, headers of every row) -> answers
Progress = Callable[[Iterable[Any]], Iterable[Any]]  # shows how far it is
IN_FLIGHT = 8


def through_endpoint(client: Client, spec: Spec) -> Answer:
    """Answers from the server; several requests are under way at once, so that it can batch them."""

    def answer(rows: Rows, headers: dict[str, str]) -> list[Any]:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return list(pool.map(lambda row: client.predict(spec.name, row[0], spec.version, row[1], headers), rows))

    return answer


def in_process(spec: Spec) -> Answer:
    """Answers from the export itself."""
    from training.export import handler_of

    handler = handler_of(spec.kind)
    handler.load(spec.export_dir, spec.serving.model_config_yaml())

    def answer(rows: Rows, headers: dict[str, str]) -> list[Any]:
        answers = handler.answer_rows([({"body": body}, headers) for body, _ in rows])
        for one in answers:
            if isinstance(one, Exception):
                raise WorkError(f"{spec.name}: a request of the evaluation was refused: {one}")
        return answers

    return answer


def single(answer: Answer) -> Ask:
    """One JSON request at a time."""

    def ask(body: bytes) -> Any:
        (found,) = answer([(body, "application/json")], {})
        return found

    return ask


def held_out(spec: Spec, data: str | None) -> Any:
    """The `ImageData` whose test split measures the model: a folder or built-in set, by default what it was trained on.

    None for a policy, which is measured in its environment. Raises CallError for data with other classes than the model's.
    """
    if spec.kind == "policy":
        return None
    from training import datasets

    images = datasets.load(data or trained_on(spec), spec.kind, spec.training.seed)
    labels = json.loads((spec.export_dir / "class_mapping.json").read_text(encoding="utf-8"))
    if sorted(labels.values()) != sorted(images.classes):
        raise CallError(f"the data has the classes {', '.join(images.classes)}; {spec.name} knows {', '.join(labels.values())}")
    return images


def measure(spec: Spec, answer: Answer, images: Any, episodes: int, progress: Progress) -> dict[str, float]:
    """Accuracy; mAP and AP50; mean IoU and Dice; or mean return over `episodes`: whatever the kind is measured by.

    Masks of detections are measured too where model and data have some.
    `images` comes from `held_out`; a detector's boxes count from the score on from which training counted them.
    """
    if spec.kind == "policy":
        return play_episodes(spec, single(answer), episodes).summary()
    rows = [example.encoded() for example in images.test]
    if spec.kind in ("classifier", "video_classifier"):
        answers = _in_parts(rows, answer, {"top_k": "1"}, progress)
        return _accuracy(answers, [images.classes[example.label] for example in images.test])
    if spec.kind == "segmenter":
        return _overlap(_in_parts(rows, answer, {}, progress), images)
    from training.detection.evaluation import LEAST

    postprocess = json.loads((spec.export_dir / "postprocess_config.json").read_text(encoding="utf-8"))
    outlined = [one is not None for example in images.test for one in example.segmentations]
    masks = bool(postprocess.get("masks")) and len(outlined) == sum(len(example.labels) for example in images.test) and all(outlined)
    asked = {"confidence_threshold": str(LEAST), **({"masks": "compressed_rle"} if masks else {})}
    return _average_precision(_in_parts(rows, answer, asked, progress), images, masks)


def _accuracy(answers: list[Any], names: list[str]) -> dict[str, float]:
    right = [found["predictions"][0]["class"] == name for found, name in zip(answers, names, strict=True)]
    return {"accuracy": float(np.mean(right)), "images": len(right)}


def _average_precision(answers: list[Any], images: Any, masks: bool) -> dict[str, float]:
    import torch

    from training.detection.evaluation import Found, mask_precision, precision_recall

    index = {name: position for position, name in enumerate(images.classes)}
    found = [
        Found(
            torch.tensor([one["bbox"] for one in answer["detections"]]).reshape(-1, 4),
            torch.tensor([one["score"] for one in answer["detections"]]),
            torch.tensor([index[one["class"]] for one in answer["detections"]], dtype=torch.int64),
            [one["mask"] for one in answer["detections"]] if masks else None,
        )
        for answer in answers
    ]
    summary, _ = precision_recall(found, images.test)
    return {**summary, **(mask_precision(found, images.test) if masks else {}), "images": len(found)}


def _overlap(answers: list[Any], images: Any) -> dict[str, float]:
    from training.segmentation.evaluation import overlap, pairs, truth_of

    from bundle_masks import read_mask

    index = {name: position for position, name in enumerate(images.classes)}
    order = np.array([index[one["class"]] for one in answers[0]["areas"]], np.uint8)
    counts = sum(
        pairs(order[read_mask(answer["mask"])], truth_of(example), len(order)) for answer, example in zip(answers, images.test, strict=True)
    )
    return {**overlap(np.asarray(counts)), "images": len(answers)}


def trained_on(spec: Spec) -> str:
    """The data that the export was trained on: what `--data` said then, or the spec, or the recipe's default."""
    metadata = json.loads((Path(spec.export_dir) / "model_metadata.json").read_text(encoding="utf-8"))
    return str(metadata["training"]["data"])


def _in_parts(rows: Rows, answer: Answer, headers: dict[str, str], progress: Progress) -> list[Any]:
    parts = [rows[start : start + 4 * IN_FLIGHT] for start in range(0, len(rows), 4 * IN_FLIGHT)]
    return [found for part in progress(parts) for found in answer(part, headers)]
