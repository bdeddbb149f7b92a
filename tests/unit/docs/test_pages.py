"""The documents: what they link to and name exists, and the pages that come from the code are current."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from marina.core import paths

DOCS = paths.SOURCE / "docs"
PAGES = [
    *(paths.SOURCE / name for name in ("README.md", "CONTRIBUTING.md") if (paths.SOURCE / name).is_file()),
    *sorted(DOCS.rglob("*.md")),
]
ROOMS = "benchmarks|deploy|docs|examples|handlers|loadtest|marina|tests|training"
PATH = re.compile(rf"`((?:{ROOMS})/[\w./-]+)`")


def pages(test: object) -> object:
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(paths.SOURCE)))(test)


def anchor_of(heading: str) -> str:
    """The anchor that GitHub and mkdocs give a heading."""
    words = re.sub(r"[^\w\s-]", "", heading.lower())
    return re.sub(r"\s+", "-", words.strip())


@pages
def test_every_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M) if anchor else []
        assert not anchor or anchor in map(anchor_of, headings), link


@pages
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    """A path in backticks that begins with a folder of the repository; NAME and the like stand for any."""
    named = set(PATH.findall(page.read_text(encoding="utf-8")))

    missing = [
        path for path in named if not re.search(r"[A-Z]{2,}", path) and not (paths.SOURCE / path).exists()
    ]

    assert not missing


def test_the_pages_from_the_code_are_current() -> None:
    command = [sys.executable, str(DOCS / "reference" / "generate.py"), "--check"]

    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=paths.SOURCE)

    assert done.returncode == 0, done.stderr


def test_the_site_builds_strictly_and_asks_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]

    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=paths.SOURCE)

    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"?([^\"\s>]+)", page.read_text())
        assert not [address for address in loaded if address.startswith(("http", "//"))], page.name
