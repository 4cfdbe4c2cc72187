"""One picture from the web: how long and how many bytes are waited for, and what is taken for a picture."""

import gzip
import io
import time
import tracemalloc

import pytest
from picture_server import DRIPS, HTML, RED, SOON, answer, fetch, head, raw
from PIL import Image

from odmt.features.fetching import Failure


def encoded(format_name):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(buffer, format_name)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
def test_a_picture_comes_as_it_is_and_its_suffix_is_that_of_its_content(shop, suffix):
    content = encoded({"jpg": "jpeg"}.get(suffix, suffix))
    url = shop.serve("picture.tiff", answer(content, Content_Type="text/plain"))
    assert fetch(url) == (content, suffix)
    assert shop.asked == ["picture.tiff"]


CHUNKED = head(b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([head(b"Content-Length: 1000"), *[b"x"] * DRIPS], "takes longer than 0.6 s"),
        ([head(), *[b"x"] * DRIPS], "takes longer than 0.6 s"),
        ([CHUNKED, *[b"1\r\nx\r\n"] * DRIPS], "takes longer than 0.6 s"),
        ([CHUNKED, *[b"0"] * DRIPS], "takes longer than 0.6 s"),
        ([b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * DRIPS], "127.0.0.1 does not answer within 0.3 s"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"] * DRIPS, "127.0.0.1 does not answer within 0.3 s"),
    ],
    ids=["length", "no length", "chunks", "a chunk's size", "a header", "interim answers"],
)
def test_a_server_that_drips_is_left_at_the_deadline(shop, parts, reason):
    started = time.monotonic()
    found = fetch(shop.serve("a", raw(*parts, every=0.05)), download_timeout_seconds=0.3, download_retries=0)
    assert (found.reason, found.passing) == (reason, True)
    assert time.monotonic() - started < SOON


def test_a_server_that_says_nothing_is_left_at_the_timeout(shop):
    started = time.monotonic()
    url = shop.serve("a", raw(b"", b"", every=30))
    found = fetch(url, download_timeout_seconds=0.3, download_retries=0)
    assert found == Failure("127.0.0.1 does not answer within 0.3 s", passing=True, silent=True)
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize(
    "cut",
    [
        head(f"Content-Length: {len(RED)}".encode()) + RED[:40],
        CHUNKED + b"28\r\n" + RED[:40] + b"\r\n",
        head() + RED[:40],
        head(),
    ],
    ids=["length", "chunks", "no length", "no length, no byte"],
)
def test_a_body_that_breaks_off_is_asked_for_again(shop, cut):
    assert fetch(shop.serve("a", raw(cut), answer(RED))).content == RED
    assert shop.asked == ["a", "a"]
    assert fetch(shop.serve("b", raw(cut)), download_retries=1).passing


def test_what_never_began_like_a_picture_is_not_asked_for_again_however_it_ended(shop):
    assert fetch(shop.serve("a", raw(head() + HTML))) == Failure("is HTML, not a picture")
    assert shop.asked == ["a"]


def test_a_connection_closed_before_the_answer_is_a_passing_fault(shop):
    found = fetch(shop.serve("a", raw(b"")), download_retries=1)
    assert found.reason.startswith("127.0.0.1 cannot be reached (Remote end closed connection")
    assert (found.passing, found.silent, shop.asked) == (True, True, ["a", "a"])


def test_too_many_bytes_are_refused_before_they_are_read(shop):
    url = shop.serve("a", raw(head(b"Content-Length: 101"), *[b"x"] * DRIPS, every=0.05))
    started = time.monotonic()
    assert fetch(url, download_max_bytes=100) == Failure("has more than 100 bytes (download_max_bytes)")
    assert time.monotonic() - started < SOON
    assert shop.asked == ["a"]


@pytest.mark.parametrize("start", [head(), CHUNKED + b"ffffff\r\n"], ids=["no length", "chunks"])
def test_too_many_bytes_are_refused_while_they_are_read(shop, start):
    url = shop.serve("a", raw(start + bytes(200_000), *[bytes(10)] * DRIPS, every=0.05))
    started = time.monotonic()
    assert fetch(url, download_max_bytes=99_999) == Failure("has more than 99,999 bytes (download_max_bytes)")
    assert time.monotonic() - started < SOON
    assert shop.asked == ["a"]


def test_as_many_bytes_as_allowed_are_taken(shop):
    url = shop.serve("a", answer(RED))
    assert fetch(url, download_max_bytes=len(RED)).content == RED
    assert isinstance(fetch(url, download_max_bytes=len(RED) - 1), Failure)


def test_no_encoding_is_asked_for_and_gzip_is_undone_all_the_same(shop):
    assert fetch(shop.serve("a", answer(gzip.compress(RED), Content_Encoding="gzip"))).content == RED
    assert shop.headers[0]["Accept-Encoding"] == "identity"
    assert fetch(shop.serve("b", answer(RED, Content_Encoding="br"))).reason.startswith("is sent in an encoding")
    assert fetch(shop.serve("c", answer(RED, Content_Encoding="gzip"))) == Failure("is said to be gzip, but is not")


def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(shop):
    bomb = gzip.compress(bytes(50_000_000))
    url = shop.serve("a", answer(bomb, Content_Encoding="gzip"))
    tracemalloc.start()
    try:
        found = fetch(url, download_max_bytes=100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == Failure("has more than 100,000 bytes (download_max_bytes)")
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (HTML, "image/jpeg", "is HTML, not a picture"),
        (b"  <html lang=en>", "text/plain", "is HTML, not a picture"),
        (b"<p>Sorry", "text/html; charset=utf-8", "is HTML, not a picture"),
        (b"{}", "application/json", "is application/json, no JPEG, PNG, WEBP, GIF, BMP picture"),
        (b"\x93NUMPY\x01\x00", "<script>", "is no JPEG, PNG, WEBP, GIF, BMP picture"),
        (b"", "image/png", "is empty"),
        (RED[:45], "image/png", "cannot be decoded"),
        (b"\xff\xd8\xff" + bytes(50), "image/jpeg", "is no JPEG, PNG, WEBP, GIF, BMP picture"),
    ],
)
def test_what_is_no_whole_picture_is_refused_and_told(shop, content, kind, reason):
    found = fetch(shop.serve("a", answer(content, Content_Type=kind)))
    assert found.reason.startswith(reason)
    assert (found.passing, shop.asked) == (False, ["a"])


def test_a_decompression_bomb_is_refused(shop, monkeypatch):
    monkeypatch.setattr("odmt.features.pictures.MOST_PIXELS", 11)
    assert fetch(shop.serve("a", answer(RED))) == Failure("has too many pixels, more than 11")
