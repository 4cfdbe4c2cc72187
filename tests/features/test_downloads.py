"""Many pictures into a folder: what is kept, what is asked again, and how a run ends early."""

import hashlib
import json
import socket
import threading
import time
from importlib.metadata import version

import pytest
from picture_server import RED, answer, contents, png

from odmt.config import PrepareConfig
from odmt.errors import DataError, ServiceError
from odmt.features.downloads import DownloadResult, download_pictures, downloaded_files, former_failures

BLUE = png("blue")


@pytest.fixture(autouse=True)
def pictures(shop):
    shop.serve("red", answer(RED))
    shop.serve("blue", answer(BLUE))


@pytest.fixture
def nobody():
    """An address at which connections are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/red.png"


def download(folder, urls, **settings):
    defaults = {"download_connections": 2, "download_retries": 0, "download_timeout_seconds": 5.0}
    return download_pictures(folder, urls, PrepareConfig(**defaults | settings), base_wait_seconds=0.01)


def place(folder, item, suffix="png"):
    return folder / hashlib.blake2b(item.encode()).hexdigest()[:2] / f"{item}.{suffix}"


def test_pictures_lie_under_two_hex_digits_and_their_item_s_id(shop, tmp_path):
    found = download(tmp_path / "new", {"a": [shop.url("red")], "b": [shop.url("gone"), shop.url("blue")]})
    assert found == DownloadResult(fetched=2, present=0, failed={}, num_bytes=len(RED) + len(BLUE))
    assert place(tmp_path / "new", "a").read_bytes() == RED
    assert place(tmp_path / "new", "b").read_bytes() == BLUE
    assert len([path for path in (tmp_path / "new").rglob("*") if path.is_file()]) == 2


def test_a_missing_folder_and_an_empty_one_hold_no_pictures(tmp_path):
    assert downloaded_files(tmp_path / "missing") == downloaded_files(tmp_path) == {}
    assert download(tmp_path / "new", {}) == DownloadResult(0, 0, {}, 0)


@pytest.mark.parametrize(
    "item", ["B000.jpg", "a b", "50%", ".hidden", "~", "~a", "é", "x" * 200, "x" * 201, "画" * 166]
)
def test_every_id_comes_back_from_its_file_and_is_not_asked_again(shop, tmp_path, item):
    urls = {item: [shop.url("red")], "a": [shop.url("red")]}
    assert download(tmp_path, urls).fetched == 2
    assert contents(tmp_path) == {item: [RED], "a": [RED]}
    assert download(tmp_path, urls) == DownloadResult(0, 2, {}, 0)
    assert len(shop.asked) == 2


def test_what_is_no_picture_in_the_folder_is_not_taken_for_one(shop, tmp_path):
    download(tmp_path, {"x" * 201: [shop.url("red")], "a": [shop.url("red")]})
    for path in tmp_path.glob("??/~*.id"):
        path.unlink()
    place(tmp_path, "a").with_name(".a.png-abcdefgh").write_bytes(RED[:9])
    place(tmp_path, "a").with_name("._a.png").write_bytes(RED)
    place(tmp_path, "a").with_name("notes.txt").write_text("mine")
    (tmp_path / "b.png").write_bytes(RED)
    assert contents(tmp_path) == {"a": [RED]}


def test_a_second_call_asks_only_for_what_is_missing(shop, tmp_path):
    urls = {"a": [shop.url("red")], "b": [shop.serve("late", answer(b"", 503), answer(BLUE))]}
    first = download(tmp_path, urls)
    assert first == DownloadResult(1, 0, {"b": "is answered with status 503"}, len(RED), passing=1)
    assert former_failures(tmp_path) == {"b": "is answered with status 503"}
    assert download(tmp_path, urls) == DownloadResult(1, 1, {}, len(BLUE))
    assert former_failures(tmp_path) == {}
    assert sorted(shop.asked) == ["late", "late", "red"]


def test_a_failure_for_good_is_told_again_but_not_asked_again_until_its_addresses_change(shop, tmp_path):
    urls = {"a": [shop.url("red")], "b": [shop.url("gone")]}
    for _ in range(2):
        assert download(tmp_path, urls).failed == {"b": "is answered with status 404"}
    assert shop.asked.count("gone") == 1
    recorded = json.loads((tmp_path / "failures.json").read_bytes())
    assert recorded == {
        "b": {
            "reason": "is answered with status 404",
            "urls": [shop.url("gone")],
            "max_bytes": 20_000_000,
            "passing": False,
        }
    }

    assert download(tmp_path, {"b": [shop.url("gone"), shop.url("blue")]}) == DownloadResult(1, 0, {}, len(BLUE))
    assert json.loads((tmp_path / "failures.json").read_bytes()) == {}


def test_what_was_too_large_is_asked_again_once_more_is_allowed(shop, tmp_path):
    urls = {"a": [shop.url("red")]}
    small = PrepareConfig(download_max_bytes=len(RED) - 1)
    assert "(download_max_bytes)" in download_pictures(tmp_path, urls, small).failed["a"]
    download_pictures(tmp_path, urls, small)
    assert len(shop.asked) == 1
    assert download_pictures(tmp_path, urls, PrepareConfig()).fetched == 1


def test_a_second_address_that_was_too_large_counts_as_too_large(shop, tmp_path):
    urls = {"a": [shop.url("gone"), shop.url("red")]}
    small = PrepareConfig(download_max_bytes=len(RED) - 1)
    assert "(download_max_bytes)" in download_pictures(tmp_path, urls, small).failed["a"]
    assert download_pictures(tmp_path, urls, PrepareConfig()).fetched == 1


def test_failures_that_may_pass_are_counted_apart(shop, tmp_path):
    shop.serve("busy", answer(b"", 503))
    settings = PrepareConfig(download_retries=0)
    result = download_pictures(tmp_path, {"a": [shop.url("busy")], "b": [shop.url("nothing")]}, settings)
    assert (len(result.failed), result.passing) == (2, 1)
    assert former_failures(tmp_path) == {"a": "is answered with status 503", "b": "is answered with status 404"}


def test_failures_of_items_that_are_not_asked_for_are_kept_but_not_told(shop, tmp_path):
    download(tmp_path, {"a": [shop.url("gone")]})
    assert download(tmp_path, {"b": [shop.url("lost")]}).failed == {"b": "is answered with status 404"}
    assert download(tmp_path, {"a": [shop.url("gone")]}).failed == {"a": "is answered with status 404"}
    assert shop.asked == ["gone", "lost"]


def test_all_is_tried_again_without_the_list_of_failures_and_a_damaged_one_is_named(shop, tmp_path):
    urls = {"a": [shop.serve("back", answer(b"", 404), answer(RED))]}
    assert download(tmp_path, urls).fetched == 0
    for damage in (b"{", b"[]", b'{"a": {"reason": "x"}}', b'{"a": 1}'):
        (tmp_path / "failures.json").write_bytes(damage)
        with pytest.raises(DataError, match=r"failures\.json: is damaged .* delete it") as caught:
            download(tmp_path, urls)
        assert caught.value.exit_code == 3
    (tmp_path / "failures.json").unlink()
    assert download(tmp_path, urls).fetched == 1


def test_failures_are_recorded_every_few_hundred_items(shop, tmp_path, monkeypatch):
    monkeypatch.setattr("odmt.features.downloads._RECORD_EVERY", 2)
    held = threading.Event()

    def last(handler):
        held.wait(5)
        answer(RED)(handler)

    urls = {name: [shop.url(name)] for name in ("gone", "lost")} | {"z": [shop.serve("last", last)]}
    running = threading.Thread(target=download, args=(tmp_path, urls))
    running.start()
    until = time.monotonic() + 5
    while not (tmp_path / "failures.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert sorted(json.loads((tmp_path / "failures.json").read_bytes())) == ["gone", "lost"]
    held.set()
    running.join()


def test_leftovers_of_a_killed_run_are_swept_and_other_files_are_not(tmp_path):
    subfolder = tmp_path / "0f"
    subfolder.mkdir()
    stale = [tmp_path / ".failures.json-ab12cd_3", subfolder / ".a.b.jpg-abcdefgh", subfolder / ".~0f.id-abcdefgh"]
    other = [tmp_path / ".failures.json", subfolder / ".a.jpg-short", subfolder / "a.jpg-abcdefgh"]
    for path in (*stale, *other):
        path.touch()
    download(tmp_path, {})
    assert [path.exists() for path in (*stale, *other)] == [False] * 3 + [True] * 3


def test_a_file_that_cannot_be_written_whole_is_not_there_and_ends_the_run(shop, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("odmt.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        download(tmp_path, {"a": [shop.url("red")]})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_as_many_pictures_as_there_are_connections_are_fetched_at_once_and_no_more(shop, tmp_path):
    barrier, lock, counts = threading.Barrier(3), threading.Lock(), {"now": 0, "most": 0}

    def together(handler):
        with lock:
            counts["now"] += 1
            counts["most"] = max(counts["most"], counts["now"])
        barrier.wait(5)
        time.sleep(0.05)  # a fourth request would come in now
        with lock:
            counts["now"] -= 1
        answer(RED)(handler)

    urls = {str(number): [shop.serve(str(number), together)] for number in range(9)}
    assert download(tmp_path, urls, download_connections=3).fetched == 9
    assert counts == {"now": 0, "most": 3}
    assert shop.num_connections == 3  # each serves one picture after the other


def test_one_picture_at_a_time_is_decoded(shop, tmp_path, monkeypatch):
    alone, decoded = threading.Lock(), []

    def decode(content):
        decoded.append(alone.acquire(blocking=False))
        time.sleep(0.02)
        alone.release()

    monkeypatch.setattr("odmt.features.received.decode", decode)
    urls = {str(number): [shop.url("red")] for number in range(6)}
    assert download(tmp_path, urls, download_connections=3).fetched == 6
    assert decoded == [True] * 6


def test_no_thread_goes_on_when_the_run_fails(shop, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("odmt.features.downloads._write_failures", full)
    monkeypatch.setattr("odmt.features.downloads._RECORD_EVERY", 1)
    urls = {"a": [shop.url("gone")]} | {str(number): [shop.url("red")] for number in range(1000)}
    with pytest.raises(OSError, match="No space left") as caught:
        download(tmp_path, urls)
    alive = [thread for thread in threading.enumerate() if thread.name.startswith("download-")]
    assert (alive, caught.value.errno) == ([], 28)
    assert len(shop.asked) < 1000


def test_the_user_agent_is_sent_and_tells_the_version(shop, tmp_path):
    download(tmp_path, {"a": [shop.url("red")]})
    download_pictures(tmp_path, {"b": [shop.url("red")]}, PrepareConfig(), "mine")
    agents = [headers["User-Agent"] for headers in shop.headers]
    assert agents[0].startswith(f"odmt/{version('odmt')} (research; ")
    assert agents[1] == "mine"


def test_progress_is_told(shop, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("odmt.commands._LEAST_SECONDS", 0.0)
    download(tmp_path, {str(number): [shop.url("red")] for number in range(4)})
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"downloading images: {count} of 4" for count in (1, 2, 3, 4)]


def test_a_network_that_is_not_there_ends_the_run_after_twenty_items(nobody, tmp_path):
    assert len(download(tmp_path, {str(number): [nobody] for number in range(19)}).failed) == 19
    with pytest.raises(
        ServiceError, match=r"127\.0\.0\.1 cannot be reached \(Connection refused\).* 20 pict.* later$"
    ) as caught:
        download(tmp_path, {str(number): [nobody, nobody] for number in range(1000)})
    assert caught.value.exit_code == 5


def test_a_network_that_goes_ends_the_run_after_fifty_items_and_what_was_fetched_stays(shop, nobody, tmp_path):
    gone = {f"gone {number}": [nobody] for number in range(50)}
    urls = {"a": [shop.url("red")], "lost": [shop.url("lost")], **gone}
    with pytest.raises(ServiceError, match="50 pictures in a row"):
        download(tmp_path, urls, download_connections=1)
    assert contents(tmp_path) == {"a": [RED]}
    assert former_failures(tmp_path)["lost"] == "is answered with status 404"
    fewer = {item: gone[item] for item in list(gone)[1:]}
    urls = {"b": [shop.url("red")], **fewer, "c": [shop.url("blue")], **{f"more {item}": [nobody] for item in fewer}}
    assert download(tmp_path, urls, download_connections=1).fetched == 2


def test_answers_that_are_no_pictures_are_no_lack_of_network(shop, tmp_path):
    urls = {str(number): [shop.serve(str(number), answer(b"", 503))] for number in range(60)}
    assert len(download(tmp_path, urls).failed) == 60
