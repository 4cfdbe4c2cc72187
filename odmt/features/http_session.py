"""A requests session for strangers' servers: no cookies, no redirects of its own, an answer's head within its time.

A read timeout is renewed by every byte that comes. What must end in time is therefore cut by a timer.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection


@contextmanager
def at_most(seconds: float, cut: Callable[[], object]) -> Iterator[None]:
    """Run a block that reads from a connection; when its time is over, cut the connection.

    Args:
        seconds: the time; nothing is left of it if not above 0.
        cut: ends the reading, called from another thread.

    Raises:
        TimeoutError: the time was over, whatever the block made of the cut connection.
    """
    over = threading.Event()

    def end() -> None:
        over.set()
        with suppress(OSError, RuntimeError, ValueError):  # the connection is through already
            cut()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if over.is_set():
            raise TimeoutError(f"not done within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()
    if over.is_set():
        raise TimeoutError(f"not done within {seconds:g} s")


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send none: by itself ``requests`` takes what ~/.netrc holds for a host."""
    return request


class PictureSession(requests.Session):
    """A session of one thread; redirects are the caller's to follow."""

    def __init__(self, user_agent: str) -> None:
        super().__init__()
        self.headers.update({"User-Agent": user_agent, "Accept-Encoding": "identity"})
        self.auth = _no_credentials
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.mount("http://", _Adapter())
        self.mount("https://", _Adapter())

    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[requests.Response]:  # type: ignore[override]
        """Yield nothing: ``Session`` comes here unasked too, and reads the whole body of a redirect, however long."""
        return iter(())


class _Adapter(HTTPAdapter):
    """Takes connections of the kinds below, through a proxy too."""

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        super().init_poolmanager(*arguments, **settings)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, proxy: str, **settings: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **settings)
        if isinstance(manager, ProxyManager):  # a SOCKS proxy has kinds of its own
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager


def _head_in_time(connection: HTTPConnection, read_head: Callable[[], HTTPResponse]) -> HTTPResponse:
    """Read status and headers within the time that a single read may take."""
    if connection.timeout is None:
        return read_head()
    # Not SSLSocket.shutdown: it takes the TLS state away from under the thread that reads.
    with at_most(connection.timeout, partial(socket.socket.shutdown, connection.sock, socket.SHUT_RDWR)):
        return read_head()


class _Connection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        return _head_in_time(self, super().getresponse)


class _SecureConnection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        return _head_in_time(self, super().getresponse)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection
