"""A folder of one's own with a folder per class: train, validation and test are found by looking."""

from pathlib import Path

from marina.core.errors import CallError
from training.data import ImageData, labeled_files
from training.data.labeled_files import PICTURES, Files, Listing, Things, report_strangers
from training.data.limits import Limits
from training.data.picture_files import SPLITS, entries, folders
from training.findings import Findings, inside

LAYOUT = """a folder of {things} looks like one of these:

    FOLDER/                 FOLDER/
    ├── train/              ├── cat/
    │   ├── cat/{files}       │   └── {files}
    │   └── dog/{files}       └── dog/
    ├── val/  …                 └── {files}
    └── test/ …
    (val or test may be    (split here: 70 % to learn from,
    left out)               15 % to choose by, 15 % to test)"""


def load(
    folder: Path,
    seed: int,
    findings: Findings | None = None,
    limits: Limits | None = None,
    things: Things | None = None,
) -> ImageData:
    """Read FOLDER/{train,val,test}/CLASS/* or FOLDER/CLASS/*; jpg, jpeg, png, webp, bmp, gif, tif and tiff in
    any case.

    Files that are no picture are left out and go to the `findings`; the rest is as `labeled_files.load` has
    it, which raises CallError. `things` reads other things than pictures so.
    """
    findings, things = findings or Findings(), things or PICTURES
    with findings.reported():
        listing = listing_of(folder, findings, things)
        return labeled_files.load(listing, seed, findings, limits or Limits(), things)


def listing_of(folder: Path, findings: Findings, things: Things = PICTURES) -> Listing:
    """The files of each class. Raises CallError for a folder without any that could be such things."""
    places = _places(folder, findings)
    listed = {
        split: {path: things.listed(path) for path in folders(place)} for split, place in places.items()
    }
    pairs = [pair for classes in listed.values() for pair in classes.values()]
    strangers = [file for _, others in pairs for file in others]
    for place in places.values():
        strangers += [
            path for path in entries(place) if path.suffix.lower() in things.suffixes and path.is_file()
        ]
    count = sum(len(files) for files, _ in pairs)
    report_strangers(strangers, count, things, folder, findings)
    layout = LAYOUT.format(things=things.name, files=things.files)
    if not count:
        raise CallError(f"no {things.name} in {folder}; {layout}")
    splits: dict[str, Files] = {}
    for split, classes in listed.items():
        splits[split] = {path.name: [*files] for path, (files, _) in classes.items()}
    return Listing(folder, splits, layout)


def _places(folder: Path, findings: Findings) -> dict[str, Path]:
    """Split -> its folder; "all" -> `folder` where it holds the classes themselves."""
    inner = folders(folder)
    places: dict[str, Path] = {}
    for path in inner:
        if path.name.lower() in SPLITS and folders(path):
            places.setdefault(SPLITS[path.name.lower()], path)
    if "train" not in places:
        return {"all": folder}
    others = [inside(path, folder) for path in inner if path not in places.values()]
    findings.add("folders", "are not read, beside train/", others, len(inner))
    return places
