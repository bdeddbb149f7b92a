"""What is left out, cut or guessed is counted, named, logged once, and refused by a strict run."""

import logging
from pathlib import Path

import pytest

from marina.core.errors import CallError
from training.findings import Findings, inside


def test_a_kind_is_one_line_with_its_count_and_some_examples(caplog: pytest.LogCaptureFixture) -> None:
    findings = Findings()
    findings.add("pictures", "left out: damaged", [f"{k}.jpg" for k in range(4)], total=5000)
    findings.add("pictures", "left out: damaged", ["4.jpg"], total=100)
    findings.add("classes", "left out: empty", [], total=3)
    with caplog.at_level(logging.WARNING, "marina"):
        findings.report()
        findings.report()

    assert caplog.messages == ["5 of 5,100 pictures left out: damaged: 0.jpg, 1.jpg, 2.jpg, …"]


def test_what_comes_up_later_is_logged_with_the_new_count(caplog: pytest.LogCaptureFixture) -> None:
    findings = Findings()
    for count in (1, 2):
        findings.add("boxes", "cut", [f"{count}.jpg"], total=10)
        findings.report()

    assert caplog.messages == ["1 of 10 boxes cut: 1.jpg", "2 of 20 boxes cut: 1.jpg, 2.jpg"]


def test_the_metadata_keeps_twenty_examples() -> None:
    findings = Findings()
    findings.add("pictures", "left out: damaged", map(str, range(30)), total=40)
    (written,) = findings.as_json()

    assert written["finding"] == "30 of 40 pictures left out: damaged: 0, 1, 2, …"
    assert (written["count"], written["of"], written["examples"]) == (30, 40, [str(k) for k in range(20)])


def leave_out(findings: Findings, then: Exception | None = None) -> None:
    with findings.reported():
        findings.add("pictures", "left out: damaged", ["a.jpg"], total=2)
        if then:
            raise then


def test_a_strict_run_refuses_them_and_names_them() -> None:
    with pytest.raises(CallError, match=r"strict: 1 of 2 pictures left out: damaged: a\.jpg"):
        leave_out(Findings(strict=True))


def test_findings_are_logged_before_an_error_that_they_explain(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CallError, match="no pictures"):
        leave_out(Findings(strict=True), then=CallError("no pictures"))

    assert "1 of 2 pictures left out: damaged: a.jpg" in caplog.text


def test_a_helper_process_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    findings = Findings(quiet=True)
    findings.add("pictures", "left out: damaged", ["a.jpg"], total=1)
    findings.report()

    assert not caplog.messages


def test_examples_are_named_from_the_data_folder_on() -> None:
    assert inside(Path("/data/pets/cat/a.jpg"), Path("/data/pets")) == "pets/cat/a.jpg"
    assert inside(Path("/other/a.jpg"), Path("/data/pets")) == "/other/a.jpg"
