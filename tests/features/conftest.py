import pytest
from picture_server import serving


@pytest.fixture
def shop(monkeypatch):
    """A server of pictures that no proxy of the environment comes between."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with serving() as server:
        yield server
