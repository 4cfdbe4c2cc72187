import gc
import shutil
import signal
import socket
import weakref
from types import SimpleNamespace

import pytest

from odmt.cluster.connect import _own_handlers, choose_place, connect, disconnect, store_bytes
from odmt.cluster.storage import writable_folder
from odmt.errors import ConfigError, ServiceError


def test_without_an_address_ray_is_our_own(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    place = choose_place("auto")
    assert (place.address, place.is_local) == ("local", True)
    assert place.sentence == "a local Ray, because RAY_ADDRESS is not set"
    with pytest.raises(ConfigError, match="attach needs RAY_ADDRESS"):
        choose_place("attach")
    with pytest.raises(ConfigError, match="expected one of auto, local, attach, got 'moon'"):
        choose_place("moon")


def test_an_address_is_followed_unless_local_was_asked_for(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert choose_place("auto").sentence == "the Ray at 10.0.0.1:6379, because RAY_ADDRESS names it"
    assert choose_place("attach").address == "10.0.0.1:6379"
    assert choose_place("local").is_local


def test_a_ray_that_does_not_answer_is_an_error_at_once(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, not listening
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ServiceError, match=f"Ray at {address} does not answer: .*unset RAY_ADDRESS"):
            connect(choose_place("auto"), feature_bytes=0)


def test_no_reference_is_collected_while_ray_shuts_down(monkeypatch):
    class Cyclic:
        def __init__(self):
            self.me = self

    garbage = weakref.ref(Cyclic())
    seen = []
    monkeypatch.setattr("ray.shutdown", lambda: seen.append((garbage() is None, gc.isenabled())))
    disconnect()
    assert seen == [(True, False)]
    assert gc.isenabled()


def test_the_object_store_holds_the_features_or_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 * 2**30))
    assert store_bytes(0) == 256 * 2**20
    assert store_bytes(10**9) == int(1.1 * 10**9) + 128 * 2**20
    with pytest.raises(ServiceError, match=r"need an object store of 22\.1 GB and /dev/shm has 10\.0 GB free"):
        store_bytes(20 * 2**30)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    assert writable_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/study: cannot be written to: Not a directory; set ODMT_HOME"):
        writable_folder(tmp_path / "file" / "study")


def test_a_signal_while_ray_starts_is_an_interruption():
    with pytest.raises(KeyboardInterrupt), _own_handlers():
        raise SystemExit(signal.SIGTERM)  # what Ray's handler does
    with pytest.raises(SystemExit, match="3"), _own_handlers():
        raise SystemExit(3)
