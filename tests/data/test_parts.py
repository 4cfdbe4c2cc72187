import pyarrow as pa
import pytest

from odmt.data import lines
from odmt.data.parts import Parsed, PartReader
from odmt.errors import DataError


def parse(block):
    values, damaged = [], []
    for number, line in enumerate(block.content.split(), start=block.first_line):
        if line.isdigit():
            values.append(int(line))
        else:
            damaged.append(f"file:{number}: is {line.decode()}")
    return Parsed(pa.table({"value": values}), damaged)


class Breaking:
    """Parses so many blocks, then breaks down."""

    def __init__(self, blocks):
        self.left = blocks
        self.seen = []

    def __call__(self, block):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.seen.append(block.first_line)
        return parse(block)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    path = tmp_path / "numbers"
    path.write_text("".join(f"{number}\n" for number in range(500)))
    return path


def values(reader):
    return [value for table in reader.tables() for value in table.column("value").to_pylist()]


def test_all_rows_come_in_the_order_of_the_file(path, tmp_path):
    assert values(PartReader(path, tmp_path / "work", parse, "numbers")) == list(range(500))


def test_a_reading_that_was_stopped_goes_on_after_its_last_block(path, tmp_path):
    first = Breaking(4)
    with pytest.raises(KeyboardInterrupt):
        values(PartReader(path, tmp_path / "work", first, "numbers"))
    second = Breaking(1000)
    assert values(PartReader(path, tmp_path / "work", second, "numbers")) == list(range(500))
    assert not set(first.seen) & set(second.seen)


def test_a_changed_file_is_read_anew(path, tmp_path):
    values(PartReader(path, tmp_path / "work", parse, "numbers"))
    path.write_text("7\n8\n")
    assert values(PartReader(path, tmp_path / "work", parse, "numbers")) == [7, 8]


def test_a_few_damaged_lines_are_counted_also_over_a_restart(path, tmp_path):
    content = path.read_text().replace("\n20\n", "\nbad\n").replace("\n300\n", "\nworse\n")
    path.write_text(content)
    with pytest.raises(KeyboardInterrupt):
        values(PartReader(path, tmp_path / "work", Breaking(4), "numbers"))
    reader = PartReader(path, tmp_path / "work", parse, "numbers")
    assert len(values(reader)) == 498
    assert (reader.damaged, reader.first_damaged) == (2, "file:21: is bad")


def test_a_part_that_does_not_read_is_read_from_the_file_again(path, tmp_path):
    values(PartReader(path, tmp_path / "work", parse, "numbers"))
    parts = sorted((tmp_path / "work").rglob("part-*.parquet"))
    parts[2].write_bytes(parts[2].read_bytes()[:50])
    again = Breaking(1000)
    assert values(PartReader(path, tmp_path / "work", again, "numbers")) == list(range(500))
    assert 0 < len(again.seen) < len(parts)


def test_a_part_that_is_lost_is_read_from_the_file_again(path, tmp_path):
    values(PartReader(path, tmp_path / "work", parse, "numbers"))
    sorted((tmp_path / "work").rglob("part-*.parquet"))[1].unlink()
    assert values(PartReader(path, tmp_path / "work", parse, "numbers")) == list(range(500))


def test_a_file_of_damaged_lines_is_refused_with_the_first(path, tmp_path):
    path.write_text("x\n" * 300)
    with pytest.raises(DataError, match=r"file:1: is x; \d+ of the first \d+ lines are like that: .*download it again"):
        values(PartReader(path, tmp_path / "work", parse, "numbers"))
