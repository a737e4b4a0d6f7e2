"""Addresses and tokens, without a Ray."""

import os
import stat
from pathlib import Path

import pytest

from orchestrator.cluster.address import free_port
from orchestrator.cluster.session import joined_ray, token_file
from orchestrator.errors import ClusterError


def test_the_token_is_made_once_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = token_file(tmp_path / "home")
    text = path.read_text()
    assert len(text) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_file(tmp_path / "home").read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["ray-token"]


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "somewhere", "host:port"])
def test_an_address_that_cannot_be_joined_is_refused_with_a_remedy(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(ClusterError) as info, joined_ray(address):
        pass
    assert info.value.code == "E4002"
    assert info.value.fix


def test_an_address_where_nothing_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError) as info, joined_ray(address):
        pass
    assert (info.value.code, info.value.exit_code) == ("E4001", 6)
    assert any("RAY_AUTH_TOKEN" in line for line in info.value.fix)
