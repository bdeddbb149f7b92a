"""A file in MedMNIST's layout: train_images, train_labels, val_…, test_… as arrays in one .npz (Yang et
al. 2023, "MedMNIST v2").
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from marina.core.errors import CallError
from marina.core.zip_files import check_unpacked_size
from training.data import Example, ImageData
from training.data.copies import report_copies
from training.data.inspection import DARK
from training.findings import Findings

# what numpy and zipfile raise at a damaged file, at another one of that name, and at sizes that nobody has
DAMAGE = (
    *(OSError, ValueError, TypeError, EOFError, IndexError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
MOST_PACKED = 200  # pictures with much black are packed more densely than models
SPLITS = ("train", "val", "test")
LAYOUT = (
    "its arrays are train_images, train_labels, val_images, val_labels, test_images and test_labels: "
    "images uint8 [N, height, width] or [N, height, width, 3], labels whole numbers [N] or [N, 1]"
)
ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver"),
    *("lung-left", "lung-right", "pancreas", "spleen"),
)
# by the file's name, as medmnist.info has them; classes of other files are called by their numbers
NAMES: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "dermamnist": (
        *(
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
        ),
        *("melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "breastmnist": ("malignant", "normal or benign"),
    "bloodmnist": (
        *(
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
    ),
    "organamnist": ORGANS,
    "organcmnist": ORGANS,
    "organsmnist": ORGANS,
}


def is_one(data: str) -> bool:
    """Whether `data` names such a file, there or not."""
    return Path(data).suffix == ".npz"


def load(file: Path, findings: Findings | None = None) -> ImageData:
    """The three splits as the file has them; copies and pictures that are nearly black go to the `findings`.

    Raises CallError for a file of another layout.
    """
    findings = findings or Findings()
    parts = _arrays(file)
    examples = {split: _examples(f"{file}: {split}", *part) for split, part in parts.items()}
    if len({label for part in examples.values() for label in {example.label for example in part}}) < 2:
        raise CallError(f"{file} has pictures of one class alone; at least two are needed")
    top = max(example.label for part in examples.values() for example in part)
    stem = file.stem.split("_")[0].lower()  # pneumoniamnist_224 has the classes of pneumoniamnist
    names = NAMES.get(stem, ())
    classes = names if len(names) > top else tuple(str(label) for label in range(top + 1))
    known = stem in NAMES
    data = ImageData(
        name=file.stem,
        classes=classes,
        train=examples["train"],
        validation=examples["val"],
        test=examples["test"],
        source=f"file {file.name}" + (", MedMNIST v2 (Yang et al. 2023)" if known else ""),
        licence="CC BY 4.0" if known and stem != "dermamnist" else "not stated",
    )
    with findings.reported():
        unused = [name for k, name in enumerate(classes) if all(example.label != k for example in data.train)]
        findings.add("classes", "have no picture to learn from", unused, len(classes))
        if known and classes != names:
            findings.add(
                "labels above those of MedMNIST's", f"in {file.name}: classes are called by numbers", [top]
            )
        brightest = max(int(np.max(images)) for images, _ in parts.values())
        if brightest <= DARK:
            findings.add(
                f"arrays of {file.name}",
                "are nearly black: values belong in 0..255",
                [f"maximum {brightest}"],
            )
        report_copies(data, {}, file.parent, findings)
    return data


def _arrays(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of each split. Raises CallError for a file of another layout."""
    try:
        check_unpacked_size(file, str(file), MOST_PACKED)
        # numpy leaves a damaged file open that it opened itself
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {split: (arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in SPLITS}
    except FileNotFoundError as error:
        raise CallError(f"data: no file {file}; give the path of a .npz file, or of a folder") from error
    except KeyError as error:
        raise CallError(f"{file}: {error.args[0]}; {LAYOUT}") from error
    except DAMAGE as error:
        raise CallError(
            f"{file} is no .npz file of plain arrays, or a damaged one ({error}); {LAYOUT}"
        ) from error


def _examples(place: str, images: np.ndarray, labels: np.ndarray) -> list[Example]:
    """Raises CallError for arrays that are no pictures with one label each."""
    if (
        images.dtype != np.uint8
        or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3))
        or not images.size
    ):
        raise CallError(f"{place}_images is {images.dtype} of shape {list(images.shape)}; {LAYOUT}")
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise CallError(
            f"{place}_labels gives {labels.shape[1]} labels to each picture, which is not covered; one per "
            "picture is needed"
        )
    flat = labels.reshape(-1)
    if flat.dtype.kind not in "iu" or len(flat) != len(images) or flat.min() < 0:
        raise CallError(
            f"{place}_labels is {labels.dtype} of shape {list(labels.shape)} for {len(images)} pictures; "
            f"{LAYOUT}"
        )
    return [Example(image=image, label=int(label)) for image, label in zip(images, flat, strict=True)]
