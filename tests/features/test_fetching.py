"""One picture from the web: which addresses are asked, how often, and when."""

import threading
import time
from email.utils import formatdate

import pytest
from picture_server import DRIPS, HTML, RED, SOON, answer, fetch, head, raw, redirect
from requests.utils import get_netrc_auth

from odmt.features import fetching
from odmt.features.fetching import Failure, Stopped


def test_five_redirects_are_followed_and_six_are_not(shop):
    shop.serve("0", answer(RED))
    for hop in range(1, 7):
        shop.serve(str(hop), redirect(f"/{hop - 1}", status=(301, 302, 303, 307, 308)[hop % 5]))
    assert fetch(shop.url("5")).content == RED
    assert shop.asked == ["5", "4", "3", "2", "1", "0"]
    assert fetch(shop.url("6")) == Failure("is redirected more than 5 times")


def test_a_redirect_loop_ends_after_six_requests(shop):
    assert fetch(shop.serve("loop", redirect("loop"))) == Failure("is redirected more than 5 times")
    assert shop.asked == ["loop"] * 6


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("file:///etc/passwd", "is not one of http or https"),
        ("ftp://127.0.0.1/red.png", "is not one of http or https"),
        ("data:image/png;base64,AAAA", "is not one of http or https"),
        ("https:///red.png", "names no host"),
        ("http://[::1/red.png", "is malformed"),
        ("/caf\xe9", "is malformed"),  # Latin-1, not UTF-8
    ],
)
def test_a_redirect_is_checked_as_an_address_is(shop, location, problem):
    assert fetch(shop.serve("a", redirect(location))) == Failure(f"is redirected to an address that {problem}")
    assert shop.asked == ["a"]


def test_the_body_of_a_redirect_is_not_waited_for(shop):
    shop.serve("red", answer(RED))
    parts = [b"HTTP/1.1 302 Found\r\nLocation: /red\r\nContent-Length: 1000\r\n\r\n", *[b"x"] * DRIPS]
    started = time.monotonic()
    assert fetch(shop.serve("a", raw(*parts, every=0.05))).content == RED
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "is not one of http or https"),
        ("red.png", "is not one of http or https"),
        ("file:///etc/hostname", "is not one of http or https"),
        ("ftp://127.0.0.1/red.png", "is not one of http or https"),
        ("https://", "names no host"),
        ("http://:80/red.png", "names no host"),
        ("http://127.0.0.1/red\r\n.png", "holds control characters"),
        ("http://127.0.0.1/\x00red.png", "holds control characters"),
        ("http://127.0.0.1:port/red.png", "is malformed"),
        ("http://" + "a" * 64 + ".example/red.png", "is malformed"),
    ],
)
def test_an_address_that_is_none_is_refused_without_a_request(shop, url, problem):
    assert fetch(url.replace("127.0.0.1/", f"127.0.0.1:{shop.server_port}/")) == Failure(f"its address {problem}")
    assert shop.asked == []


def test_the_next_address_is_asked_when_one_fails_for_good(shop):
    urls = [shop.url("gone"), shop.serve("html", answer(HTML)), shop.serve("red", answer(RED)), shop.url("unasked")]
    assert fetch("ftp://x/y", *urls).content == RED
    assert shop.asked == ["gone", "html", "red"]


def test_an_item_fails_for_good_only_if_all_its_addresses_do(shop):
    gone, busy = shop.url("gone"), shop.serve("busy", answer(b"", status=503))
    assert fetch(gone, shop.serve("html", answer(HTML))) == Failure("is answered with status 404")
    assert fetch(gone, busy, download_retries=0) == Failure("is answered with status 503", passing=True)
    assert fetch() == Failure("has no address")


def test_a_host_with_a_passing_fault_is_left_alone_and_another_host_asked(shop):
    busy = shop.serve("busy", answer(b"", status=503))
    elsewhere = shop.serve("red", answer(RED)).replace("127.0.0.1", "localhost")
    assert fetch(busy, shop.url("red"), elsewhere, download_retries=0).content == RED
    assert shop.asked == ["busy", "red"]
    assert shop.headers[1]["Host"] == f"localhost:{shop.server_port}"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_a_fault_that_may_pass_is_asked_again(shop, status):
    assert fetch(shop.serve("a", answer(b"", status), answer(b"", status), answer(RED))).content == RED
    assert shop.asked == ["a"] * 3


@pytest.mark.parametrize("status", [204, 300, 304, 401, 403, 404, 410])
def test_another_status_is_not_asked_again(shop, status):
    assert fetch(shop.serve("a", answer(b"", status))) == Failure(f"is answered with status {status}")
    assert shop.asked == ["a"]


def test_waits_grow_and_tries_end(shop):
    busy = shop.serve("a", answer(b"", status=503))
    assert fetch(busy, base_wait_seconds=0.1, download_retries=3).passing
    gaps = [after - before for before, after in zip(shop.times, shop.times[1:], strict=False)]
    assert len(gaps) == 3
    assert all(gap >= wait for gap, wait in zip(gaps, (0.1, 0.2, 0.4), strict=True))


def test_retry_after_is_waited_for(shop):
    assert fetch(shop.serve("a", answer(b"", 429, Retry_After=1), answer(RED))).content == RED
    assert shop.times[1] - shop.times[0] >= 1


@pytest.mark.parametrize("wish", ["3600", formatdate(time.time() + 3600, usegmt=True)])
def test_retry_after_is_bounded(shop, wish, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_WAIT_SECONDS", 0.3)
    assert fetch(shop.serve("a", answer(b"", 429, Retry_After=wish), answer(RED))).content == RED
    assert 0.3 <= shop.times[1] - shop.times[0] < 5


def test_a_senseless_retry_after_is_overlooked(shop):
    assert fetch(shop.serve("a", answer(b"", 429, Retry_After="soon"), answer(RED))).content == RED


def test_cookies_are_not_kept(shop):
    urls = [shop.serve("a", answer(HTML, Set_Cookie="who=me")), shop.serve("b", answer(RED))]
    assert fetch(*urls).content == RED
    assert "Cookie" not in shop.headers[1]


def test_what_netrc_holds_for_a_host_is_not_sent(shop, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert get_netrc_auth(shop.url("red")) == ("me", "secret")
    fetch(shop.serve("red", answer(RED)))
    assert "Authorization" not in shop.headers[0]


def test_a_proxy_of_the_environment_is_used_and_its_answers_have_to_come_in_time_too(shop, monkeypatch):
    monkeypatch.setenv("http_proxy", shop.root)
    shop.serve("red", answer(RED))
    assert fetch("http://shop.example/red").content == RED
    assert shop.headers[0]["Host"] == "shop.example"
    shop.serve("drip", raw(b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * DRIPS, every=0.05))
    started = time.monotonic()
    assert fetch("http://shop.example/drip", download_timeout_seconds=0.3, download_retries=0).passing
    assert time.monotonic() - started < SOON


def test_a_wait_and_a_body_end_when_told_to_stop(shop):
    for url in (
        shop.serve("a", answer(b"", 503, Retry_After=100)),
        shop.serve("b", raw(head(b"Content-Length: 9999999"), *[bytes(10_000)] * DRIPS, every=0.05)),
    ):
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        started = time.monotonic()
        with pytest.raises(Stopped):
            fetch(url, stop=stop)
        assert time.monotonic() - started < SOON
