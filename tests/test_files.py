import os

import pytest

from newllm.files import UnwritableError, atomic_file, write_atomically


def make_folder(path):
    path.mkdir()


def make_link_to_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to(path.with_name("pipe"))


def make_inside_of_a_file(path):
    path.parent.rmdir()
    path.parent.write_text("kept")


@pytest.mark.parametrize("make", [os.mkfifo, make_folder, make_link_to_pipe, make_inside_of_a_file])
def test_what_is_no_file_is_refused_before_any_work(make, tmp_path):
    place = tmp_path / "folder"
    place.mkdir()
    make(place / "target")
    before = {path: path.lstat().st_ino for path in tmp_path.rglob("*")}
    with (
        pytest.raises(UnwritableError, match=r"^\S*target cannot be written \([\w ]+\): choose another place\.$"),
        atomic_file(place / "target"),
    ):
        pytest.fail("work was begun")
    assert {path: path.lstat().st_ino for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("old")])
def test_a_file_is_written_where_there_is_none_or_an_old_one(make, tmp_path):
    make(tmp_path / "target")
    write_atomically(tmp_path / "target", "new")
    assert (tmp_path / "target").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_link_to_a_file_is_replaced_and_the_file_is_not(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", "new")
    assert ((tmp_path / "link").read_text(), (tmp_path / "file").read_text()) == ("new", "old")
