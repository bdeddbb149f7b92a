"""Every fuzz target with a few inputs, the same every time; `make fuzz` tries many more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fuzz_targets import TARGETS
from tests.support.strategies import tried


@pytest.mark.parametrize("name", TARGETS)
@tried(60)
@given(data=st.data())
def test_no_input_is_handled_wrongly(name: str, data: st.DataObject) -> None:
    TARGETS[name].check(data.draw(TARGETS[name].inputs))
