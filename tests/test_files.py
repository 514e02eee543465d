import os

import pytest

from newllm.files import UnwritableError, atomic_file, digest_of_file, first_damaged, leads_inside, write_atomically


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


@pytest.fixture
def folder_with_links(tmp_path):
    """A folder with a file, and links to it, to a file elsewhere, to the folder above, and to themselves."""
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    for file in (folder / "inside" / "file", tmp_path / "evil"):
        file.write_text("text")
    links = {"link": folder / "inside" / "file", "out": tmp_path / "evil", "up": tmp_path, "loop": folder / "loop"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    return folder


@pytest.mark.parametrize("name", ["inside/file", "link", "not there", "inside/./file"])
def test_a_plain_name_leads_inside(folder_with_links, name):
    assert leads_inside(folder_with_links, name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../evil", "inside/../../evil", "/etc/passwd", "..\\evil", "out", "up/evil", "up", "a\0b"]
)
def test_a_name_or_a_link_that_leads_out_is_none_of_a_folder(folder_with_links, name):
    assert not leads_inside(folder_with_links, name)
    known = digest_of_file(folder_with_links / "inside" / "file")
    assert first_damaged(folder_with_links, {"inside/file": known, name: known}) == folder_with_links / name


def test_a_loop_of_links_is_damaged(folder_with_links):
    assert first_damaged(folder_with_links, {"loop": "0"}) == folder_with_links / "loop"
