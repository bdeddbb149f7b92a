"""How many replicas of a version a node may have."""

import pytest

from marina.engines.ray.scale import Scale, per_node_of


@pytest.mark.parametrize("nodes", range(2, 7))
@pytest.mark.parametrize("least", range(1, 9))
@pytest.mark.parametrize("more", range(4))
def test_replicas_have_room_and_are_not_all_on_one_node(least: int, more: int, nodes: int) -> None:
    """All fit on the nodes; a fixed number of two or more is never all on one of them."""
    per_node = per_node_of(Scale(least, least + more), nodes)

    assert per_node
    assert per_node * nodes >= least + more
    if more == 0 and least > 1:
        assert per_node < least


@pytest.mark.parametrize(("replicas", "nodes"), [(2, 3), (3, 3), (4, 3), (4, 4), (8, 4), (1, 2)])
def test_all_find_room_on_one_node_less(replicas: int, nodes: int) -> None:
    per_node = per_node_of(Scale(replicas, replicas), nodes)

    assert per_node
    assert per_node * (nodes - 1) >= replicas


def test_a_single_node_has_them_all() -> None:
    assert per_node_of(Scale(4, 4), 1) is None
