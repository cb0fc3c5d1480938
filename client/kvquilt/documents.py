"""Files and folders as documents."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from kvquilt.types import Document
from kvquilt_codec.errors import BadRequestError, NotFoundError

MAX_FILE_BYTES = 4 << 20


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """Text files as documents; folders are walked, hidden files and folders in them are skipped.

    The document id is the path as given (for a file in a folder: the folder's path and the path within it).

    Raises:
        NotFoundError: a path does not exist.
        BadRequestError: a named file is not UTF-8 text, empty, or larger than 4 MiB, or a path is named twice.
    """
    documents: list[Document] = []
    for path in paths:
        if path.is_dir():
            documents += _folder(path)
        elif path.is_file():
            documents.append(Document(str(path), _text(path)))
        else:
            raise NotFoundError(f"expected a file or a folder; {str(path)!r} is neither")
    ids = [document.document_id for document in documents]
    if len(set(ids)) != len(ids):
        raise BadRequestError("expected every file once; some are named twice, perhaps also through their folder")
    return documents


def _folder(folder: Path) -> Iterator[Document]:
    """The text files of a folder, in the order of their paths; other files are passed over."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        try:
            text = _text(path)
        except BadRequestError:
            continue
        yield Document(str(path), text)


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadRequestError(f"expected files of at most {MAX_FILE_BYTES} bytes; {str(path)!r} is larger: split it")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadRequestError(f"expected UTF-8 text; {str(path)!r} is something else") from None
    if not text.strip():
        raise BadRequestError(f"expected text; {str(path)!r} is empty")
    return text
