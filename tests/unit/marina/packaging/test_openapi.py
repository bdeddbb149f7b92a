"""The OpenAPI document: valid by a public validator, and consistent with the golden samples."""

import json
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from typer.testing import CliRunner

from marina import cli
from marina.core import spec
from marina.core.spec import Spec
from marina.packaging import openapi
from marina.pipeline import readiness as ready

NAMES = spec.names()


def validate(document: dict[str, Any], name: str, content: Any) -> None:
    """Check `content` against a schema of the document, references included."""
    jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    ).validate(content)


@pytest.mark.parametrize("name", NAMES)
def test_the_document_is_valid_openapi(built_in: list[Spec], name: str) -> None:
    document = openapi.document(spec.load(name))

    OpenAPIV31SpecValidator(document).validate()
    assert document["info"]["title"] == name
    assert {
        f"/predictions/{name}",
        f"/predictions/{name}/1.0",
        f"/v1/models/{name}:predict",
        f"/v2/models/{name}/infer",
    } <= document["paths"].keys()
    assert (f"/explanations/{name}" in document["paths"]) == (spec.load(name).kind != "detector")


@pytest.mark.parametrize("name", NAMES)
def test_golden_requests_and_answers_are_what_the_schemas_say(built_in: list[Spec], name: str) -> None:
    one = spec.load(name)
    document = openapi.document(one)

    for sample in ready.golden_samples(one):
        validate(document, "Answer", sample["answer"])
        if sample["content_type"] == "application/json":
            body = json.loads(sample["body"])
            validate(document, "Instance", body)
            validate(document, "Instances", {"instances": [body, body]})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("cartpole", {"observation": [1, 2, 3]}),
        ("cartpole", {"obs": [1, 2, 3, 4]}),
        ("cartpole", {"observation": [1, 2, 3, 4], "action_mask": [1]}),
        ("digits", {"image": 3}),
        ("digits", {"image": "eA==", "data": "eA=="}),
        ("digits", {"image": "eA==", "top_k": 0}),
        ("scenes", {"image": "eA==", "confidence_threshold": 1.5}),
        ("scenes", {}),
    ],
)
def test_what_the_handler_refuses_the_schema_refuses_too(built_in: list[Spec], name: str, wrong: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(openapi.document(spec.load(name)), "Instance", wrong)


def test_options_are_headers_of_the_operations(built_in: list[Spec]) -> None:
    document = openapi.document(spec.load("digits"))

    predicted = {one["name"] for one in document["paths"]["/predictions/digits"]["post"]["parameters"]}
    explained = document["paths"]["/explanations/digits"]["post"]
    assert predicted == {"top_k", "prefer", "callback"}
    assert {one["name"] for one in explained["parameters"]} == {"top_k", "class_index", "format"}
    assert "image/png" in explained["responses"]["200"]["content"]


def test_the_command_prints_the_document_or_writes_it(built_in: list[Spec], tmp_path: Any) -> None:
    printed = CliRunner().invoke(cli.app, ["openapi", "digits"])
    written = CliRunner().invoke(cli.app, ["openapi", "digits", "--output", str(tmp_path / "digits.json")])

    assert printed.exit_code == written.exit_code == 0
    assert (
        json.loads(printed.stdout)
        == json.loads((tmp_path / "digits.json").read_text())
        == openapi.document(spec.load("digits"))
    )


def test_without_an_archive_the_command_says_what_to_run(home: Any) -> None:
    (home / "models" / "none.yaml").write_text(
        '# Nothing.\nversion: "1.0"\nkind: policy\ntraining: {recipe: dqn}\nfloor: {mean_return: 1}\n'
    )

    done = CliRunner().invoke(cli.app, ["openapi", "none"])

    assert done.exit_code == 2
    assert "marina archive none" in done.stderr
