import gzip

import numpy as np
import pytest

from odmt.data import lines
from odmt.data.lines import blocks, text_lines
from odmt.errors import DataError

CONTENT = b"".join(b"line %d of the file\n" % number for number in range(1, 1001)) + b"last"


@pytest.fixture(params=["plain", "packed"])
def path(request, tmp_path):
    path = tmp_path / ("file.txt" if request.param == "plain" else "file.gz")
    path.write_bytes(CONTENT if request.param == "plain" else gzip.compress(CONTENT))
    return path


def test_blocks_are_whole_lines_and_together_the_file(path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1000)
    found = list(blocks(path))
    assert len(found) > 10
    assert b"".join(block.content for block in found) == CONTENT
    assert all(block.content.endswith(b"\n") for block in found[:-1])
    assert [block.first_line for block in found[1:]] == [block.next_line for block in found[:-1]]
    assert found[3].content.split(b" ")[1] == b"%d" % found[3].first_line


def test_reading_goes_on_after_any_block(path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1000)
    whole = list(blocks(path))
    for number in (0, 4, len(whole) - 2):
        rest = list(blocks(path, whole[number].end, whole[number].next_line))
        assert b"".join(block.content for block in rest) == CONTENT[whole[number].end :]
        assert (rest[0].first_line, rest[-1].next_line) == (whole[number].next_line, whole[-1].next_line)


def test_the_amount_read_of_the_file_on_disk_is_told(path):
    told = []
    list(blocks(path, tell=told.append))
    assert told[-1] == path.stat().st_size


def test_a_line_longer_than_a_block_stays_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 8)
    (tmp_path / "file").write_bytes(b"a" * 50 + b"\nb\n")
    found = [block.content for block in blocks(tmp_path / "file")]
    assert found[0].startswith(b"a" * 50 + b"\n")
    assert b"".join(found) == b"a" * 50 + b"\nb\n"


def test_gzip_is_told_by_its_content_not_by_its_name(tmp_path):
    (tmp_path / "file.json").write_bytes(gzip.compress(b"a\n"))
    (tmp_path / "file.json.gz").write_bytes(b"a\n")
    for name in ("file.json", "file.json.gz"):
        assert [block.content for block in blocks(tmp_path / name)] == [b"a\n"]


def test_a_compressed_file_that_is_cut_off_is_named_with_the_last_whole_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_PIECE_BYTES", 512)
    noise = np.random.default_rng(0).integers(97, 123, 60_000, dtype=np.uint8).tobytes()
    content = b"\n".join(noise[start : start + 59] for start in range(0, 60_000, 60))
    packed = gzip.compress(content)
    (tmp_path / "file.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(
        DataError, match=r"file\.gz: is cut off or damaged after line \d+ .*download it again"
    ) as caught:
        list(blocks(tmp_path / "file.gz"))
    line = int(str(caught.value).split("after line ")[1].split()[0])
    assert 400 < line < 520  # about half of the thousand


def test_a_damaged_compressed_file_is_named(tmp_path):
    packed = gzip.compress(CONTENT)
    (tmp_path / "file.gz").write_bytes(packed[:60] + b"\xff" * 60 + packed[120:])
    with pytest.raises(DataError, match=r"file\.gz: is cut off or damaged after line \d+ .*; download it again"):
        list(blocks(tmp_path / "file.gz"))


def test_a_line_that_no_text_file_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(lines, "LONGEST_LINE", 5000)
    (tmp_path / "file").write_bytes(b"a\n" + bytes(20_000))
    with pytest.raises(DataError, match=r"file:2: has more than 5,000 bytes; that is no text file"):
        list(blocks(tmp_path / "file"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: cannot be read: No such file"):
        list(blocks(tmp_path / "nowhere"))


def test_text_lines_know_their_place_and_leave_out_blank_ones(tmp_path):
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfa\r\n\r\n \n\t\nb\xe2\x80\xa8c")
    found = [(place.rpartition(":")[2], line) for place, line in text_lines(tmp_path / "file")]
    assert found == [("1", "a"), ("4", "\t"), ("5", "b\u2028c")]


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"a\nb\xff\n")
    with pytest.raises(DataError, match=r"file:2: is not UTF-8 text \(byte 0xff\)"):
        list(text_lines(tmp_path / "file"))
