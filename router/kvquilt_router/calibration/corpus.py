"""The texts that come with the package, for whoever has none of their own; `corpus/NOTICE` says where they are from."""

from importlib.resources import files

from kvquilt_router.calibration.texts import Text


def shipped_texts() -> tuple[Text, ...]:
    """English texts of four kinds by name: Python source, documentation, encyclopaedia passages, prose.

    Each has a little over `PIECE_TOKENS` tokens of the demo model; their order lets `cut` hold out some of every kind.
    """
    folder = files("kvquilt_router.calibration") / "corpus"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".txt"))
    return tuple(
        Text(name.removesuffix(".txt"), (folder / name).read_text(encoding="utf-8"), name.rpartition("-")[0])
        for name in names
    )
