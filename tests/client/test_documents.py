"""Files and folders as documents."""

import pytest

from kvquilt import read_documents
from kvquilt.errors import BadRequestError, NotFoundError


def test_a_file_is_a_document_named_by_its_path(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text")
    (document,) = read_documents([path])
    assert (document.document_id, document.content) == (str(path), "text")


def test_a_folder_gives_its_text_files_in_order_and_passes_over_the_rest(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name, data in {
        "b.txt": b"b",
        "sub/a.md": b"a",
        ".secret": b"no",
        ".hidden/x.txt": b"no",
        "image.bin": b"\xff\xfe\x00",
        "empty.txt": b" \n",
    }.items():
        (tmp_path / name).write_bytes(data)
    assert [document.content for document in read_documents([tmp_path])] == ["b", "a"]


def test_named_files_must_be_usable(tmp_path):
    with pytest.raises(NotFoundError, match="neither"):
        read_documents([tmp_path / "missing"])
    binary = tmp_path / "image.bin"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequestError, match="UTF-8"):
        read_documents([binary])
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(BadRequestError, match="empty"):
        read_documents([empty])
    large = tmp_path / "large.txt"
    large.write_text("x" * ((4 << 20) + 1))
    with pytest.raises(BadRequestError, match="split it"):
        read_documents([large])


def test_a_file_named_twice_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text")
    with pytest.raises(BadRequestError, match="twice"):
        read_documents([path, tmp_path])
