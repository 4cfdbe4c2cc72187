import os
import subprocess
import sys

import pytest

from odmt.data.ownership import owned, sweep
from odmt.errors import DataError

OWNER = """
import pathlib, sys
from odmt.data.ownership import owned
with owned(pathlib.Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_by_pid_until_the_first_one_is_killed(tmp_path):
    folder = tmp_path / "arts"
    command = [sys.executable, "-c", OWNER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout.readline() == "owned\n"
            with pytest.raises(DataError, match=rf"prepare\.lock: .*\(pid {owner.pid}\) is preparing data set 'arts'"):
                owned(folder).__enter__()
        finally:
            owner.kill()
    assert (folder / "prepare.lock").exists()
    with owned(folder):
        assert (folder / "prepare.lock").read_text() == f"{os.getpid()}\n"
    assert list(folder.iterdir()) == []


def test_folders_that_were_made_for_nothing_go_again(tmp_path):
    (tmp_path / "home").mkdir()
    with owned(tmp_path / "home" / "data" / "arts"):
        pass
    assert list((tmp_path / "home").iterdir()) == []
    with owned(tmp_path / "home" / "data" / "arts"):
        (tmp_path / "home" / "data" / "arts" / "catalogue.parquet").touch()
    assert [path.name for path in (tmp_path / "home" / "data" / "arts").iterdir()] == ["catalogue.parquet"]


def test_only_our_own_leftovers_are_swept(tmp_path):
    ours = [".images-ab12_xyz", ".import-abcdefgh", ".source-abcdefgh", "encoders/.text-abcdefgh"]
    theirs = [".images-mine", ".git-abcdefgh", "images-abcdefgh", "encoders/text", "source"]
    for name in ours + theirs:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "content").touch()
    (tmp_path / ".source.json-abcdefgh").touch()
    (tmp_path / ".bad_images.tsv-abcdefgh").touch()
    sweep(tmp_path)
    left = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("content")}
    assert left == set(theirs)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []
