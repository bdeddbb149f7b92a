"""What route prefixes tell of models and versions, and where the front looks up a request."""

from marina.engines.ray import routes

PREFIXES = {
    "/": "http-.catalog",
    "/models/digits/1.1/1.0/0.9~": "http-digits",
    "/digits/1.0": "http-digits.1.0",
    "/digits/1.1": "http-digits.1.1",
    "/digits/0.8": "http-digits.0.8",
}


def test_a_models_prefix_lists_its_versions() -> None:
    """The first is the default one; one without replicas, or whose application is gone, answers nothing."""
    prefix = routes.model_prefix("digits", "1.1", ["1.0", routes.idle("0.9"), "0.7"])

    model = routes.routed_models([prefix, "/digits/1.0", "/digits/1.1", "/digits/0.9"])["digits"]

    assert model.default == "1.1"
    assert model.versions == ("1.1", "1.0", "0.9", "0.7")
    assert model.answering == {"1.1", "1.0"}


def test_the_front_knows_the_versions_that_answer() -> None:
    """One that is deployed and not listed by its model is not shown yet, or no more."""
    by_version, defaults = routes.backends(PREFIXES)

    assert by_version == {"digits/1.0": "http-digits.1.0", "digits/1.1": "http-digits.1.1"}
    assert defaults == {"digits": "1.1"}


def test_a_model_may_be_called_models() -> None:
    """Its name is in the second place of its own prefix, and in the first of its versions'."""
    model = routes.routed_models([routes.model_prefix("models", "1.0", []), "/models/1.0"])["models"]

    assert model.answering == {"1.0"}
