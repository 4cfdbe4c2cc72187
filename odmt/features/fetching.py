"""One picture from the web: from the first of its addresses that gives one, within limits of size and time.

Redirects and retries are done here and not by requests and urllib3: theirs read whole bodies of answers that nobody
wants, which no limit covers, and sleep where an interruption does not reach them.
"""

import re
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from odmt.config import PrepareConfig
from odmt.errors import DataError
from odmt.features.http_session import PictureSession, at_most
from odmt.features.received import TOO_LARGE, Picture, as_picture, check_size, suffix_of, unpacked

MAX_REDIRECTS = 5
MAX_WAIT_SECONDS = 120.0
"""Longest wait before a further try, whatever a server asks for."""

_OK = 200
_SERVER_FAULT = 500
_MAY_PASS = (408, 425, 429)  # and all from 500 on
_CHUNK_BYTES = 2**16
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Failure(NamedTuple):
    """Why an item has got no picture.

    Attributes:
        reason: one clause.
        passing: whether another try later may do better.
        silent: whether no server has said anything.
    """

    reason: str
    passing: bool = False
    silent: bool = False


class Stopped(Exception):
    """The fetching was told to stop."""


class _Problem(Exception):
    """An address gives no picture; ``answered`` if a server has said anything at all."""

    def __init__(self, reason: str, *, answered: bool = True) -> None:
        super().__init__(reason)
        self.answered = answered


class _Refused(_Problem):
    """Asking again would change nothing."""


class _Fault(_Problem):
    """Asking again may help, not sooner than in ``wait_seconds``."""

    def __init__(self, reason: str, *, answered: bool = True, wait_seconds: float = 0.0) -> None:
        super().__init__(reason, answered=answered)
        self.wait_seconds = wait_seconds


class Fetcher:
    """Fetches pictures, one after the other; every thread has its own.

    Args:
        settings: connections aside, all that begins with ``download_``.
        user_agent: what is sent as such.
        base_wait_seconds: wait before the second try; doubled before each further one.
        stop: ends waits and bodies when it is set.
        decoding: held while a picture is decoded.
    """

    def __init__(
        self,
        settings: PrepareConfig,
        user_agent: str,
        base_wait_seconds: float,
        stop: threading.Event,
        decoding: threading.Lock,
    ) -> None:
        self._settings = settings
        self._base_wait_seconds = base_wait_seconds
        self._stop = stop
        self._decoding = decoding
        self._session = PictureSession(user_agent)

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def fetch(self, urls: Sequence[str]) -> Picture | Failure:
        """Fetch an item's picture.

        Args:
            urls: its addresses, best first. The next one is tried when one fails for good; when one fails with a
                fault that may pass, the next one on another host.

        Raises:
            Stopped: ``stop`` was set.
        """
        refusals: list[_Refused] = []
        faults: dict[str, _Fault] = {}
        for url in urls:
            host = _host(url)
            if host in faults:
                continue
            try:
                return self._fetch_patiently(url)
            except _Refused as refusal:
                refusals.append(refusal)
            except _Fault as fault:
                faults[host] = fault
        if not faults:
            told = [str(refusal) for refusal in refusals] or ["has no address"]
            return Failure(next((reason for reason in told if TOO_LARGE in reason), told[0]))
        answered = any(problem.answered for problem in (*refusals, *faults.values()))
        return Failure(str(next(iter(faults.values()))), passing=True, silent=not answered)

    def _fetch_patiently(self, url: str) -> Picture:
        tries = 0
        while True:
            try:
                return self._fetch_once(url)
            except _Fault as fault:
                if tries == self._settings.download_retries:
                    raise
                growing = self._base_wait_seconds * 2 ** min(tries, 30)
                if self._stop.wait(min(max(growing, fault.wait_seconds), MAX_WAIT_SECONDS)):
                    raise Stopped from fault
            tries += 1

    def _fetch_once(self, url: str) -> Picture:
        deadline = time.monotonic() + 2 * self._settings.download_timeout_seconds
        for hop in range(MAX_REDIRECTS + 1):
            problem = _problem_of_address(url)
            if problem is not None:
                subject = "is redirected to an address that" if hop else "its address"
                raise _Refused(f"{subject} {problem}", answered=hop > 0)
            with self._ask(url, deadline, answered=hop > 0) as response:
                if not response.is_redirect:
                    return self._picture(response, deadline)
                url = self._target(url, response)
        raise _Refused(f"is redirected more than {MAX_REDIRECTS} times")

    def _ask(self, url: str, deadline: float, *, answered: bool) -> requests.Response:
        seconds = min(self._settings.download_timeout_seconds, deadline - time.monotonic())
        if self._stop.is_set():
            raise Stopped
        if seconds <= 0:
            raise _Fault(self._late())
        try:
            return self._session.get(url, stream=True, allow_redirects=False, timeout=seconds)
        except requests.Timeout as error:
            raise _Fault(f"{_host(url)} does not answer within {seconds:g} s", answered=answered) from error
        except (OSError, HTTPError, ValueError) as error:  # requests' own errors are OSErrors
            raise _Fault(f"{_host(url)} cannot be reached ({_innermost(error)})", answered=answered) from error

    def _target(self, url: str, response: requests.Response) -> str:
        try:
            return urljoin(url, self._session.get_redirect_target(response) or "")
        except ValueError as error:
            raise _Refused("is redirected to an address that is malformed") from error

    def _picture(self, response: requests.Response, deadline: float) -> Picture:
        status = response.status_code
        if status >= _SERVER_FAULT or status in _MAY_PASS:
            raise _Fault(f"is answered with status {status}", wait_seconds=_retry_after(response))
        if status != _OK:
            raise _Refused(f"is answered with status {status}")
        # Without a length and without chunks the end of the connection is the end of the body, also an untimely one.
        end_is_told = response.raw.length_remaining is not None or response.raw.chunked
        try:
            body, encoding = self._body(response, deadline), response.headers.get("Content-Encoding", "")
            content = unpacked(body, encoding, self._settings.download_max_bytes)
        except DataError as error:
            raise _Refused(str(error)) from error
        try:
            return as_picture(content, response.headers.get("Content-Type", ""), self._decoding)
        except DataError as error:
            cut_short = not end_is_told and (not content or suffix_of(content))
            raise (_Fault if cut_short else _Refused)(str(error)) from error

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        limit = self._settings.download_max_bytes
        check_size(response.raw.length_remaining or 0, limit)
        content = bytearray()
        try:
            with at_most(deadline - time.monotonic(), response.raw.shutdown):
                while chunk := response.raw.read(_CHUNK_BYTES, decode_content=False):
                    content += chunk
                    check_size(len(content), limit)
                    if self._stop.is_set():
                        raise Stopped
        except TimeoutError as error:
            raise _Fault(self._late()) from error
        except (OSError, HTTPError, ValueError) as error:
            raise _Fault(f"breaks off after {len(content):,} bytes") from error
        return bytes(content)

    def _late(self) -> str:
        return f"takes longer than {2 * self._settings.download_timeout_seconds:g} s"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _problem_of_address(url: str) -> str | None:
    """Say why an address must not be asked, None if it may."""
    if _CONTROL.search(url):
        return "holds control characters"
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            return "is not one of http or https"
        if not parts.hostname:
            return "names no host"
        as_sent = requests.Request("GET", url).prepare().url or ""
        _host(as_sent).encode("idna")
    except ValueError:
        return "is malformed"
    return None


def _retry_after(response: requests.Response) -> float:
    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except (HTTPError, ValueError, OverflowError):
        return 0.0


def _innermost(error: BaseException) -> str:
    while inner := error.__cause__ or error.__context__:
        error = inner
    told = error.strerror if isinstance(error, OSError) else None
    return " ".join((told or str(error)).split()) or type(error).__name__
