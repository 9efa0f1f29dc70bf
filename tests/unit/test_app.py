from __future__ import annotations

from pathlib import Path

import pytest

from dragoman_server.app import authority, store_url
from dragoman_server.settings import ServerSettings, Settings


@pytest.mark.parametrize(("host", "got"), [("127.0.0.1", "127.0.0.1:1"), ("::1", "[::1]:1"), ("name", "name:1")])
def test_an_address_is_as_grpc_takes_it(host: str, got: str) -> None:
    assert authority(host, 1) == got


def test_the_database_lives_in_the_data_folder_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a ? b"
    url = store_url(Settings(server=ServerSettings(data_dir=folder)))
    assert folder.is_dir()
    assert url.startswith("sqlite:///")
    assert "?" not in url
