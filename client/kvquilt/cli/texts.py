"""Files and folders as texts to measure on; the folder says what kind of text a file is."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvquilt.documents import read_documents

if TYPE_CHECKING:
    from kvquilt_router.calibration import Text


def read_texts(paths: Sequence[Path]) -> "list[Text]":
    """Text files, and those of folders, each with its kind.

    The kind is the folder right below the innermost one that all files are in; files that are in no folder below it are
    of one kind, named after it.

    Raises:
        NotFoundError: a path does not exist.
        BadRequestError: a file cannot be read as text; see `kvquilt.documents.read_documents`.
    """
    from kvquilt_router.calibration import Text  # imports torch

    documents = read_documents(paths)
    kinds = kinds_of([Path(document.document_id) for document in documents])
    return [
        Text(document.document_id, str(document.content), kind) for document, kind in zip(documents, kinds, strict=True)
    ]


def kinds_of(files: Sequence[Path]) -> list[str]:
    """The kind of every file; see `read_texts`."""
    folders = [file.absolute().parent for file in files]
    if not folders:
        return []
    common = Path(os.path.commonpath(folders))
    below = [folder.relative_to(common).parts for folder in folders]
    return [parts[0] if parts else common.name for parts in below]
