"""Marks for tests of live servers, which run on each engine (`engine` in tests/server/conftest.py)."""

import pytest

# what only TorchServe does: its own tokens, refusals and metrics
ONLY_TORCHSERVE = pytest.mark.parametrize("engine", ["torchserve"], indirect=True)
# what asks the model alone, or one of our own programs, and is the same behind any engine
ONE_ENGINE = pytest.mark.parametrize("engine", ["standalone"], indirect=True)
# what commands start is one engine after the other
EACH_ENGINE = pytest.mark.usefixtures("default_engine")
