"""Sums of an inventory, of whatever number of rows, in bounded memory."""

from dataclasses import dataclass, field

from kvquilt.inventory.types import InventoryRow

MAX_DOCUMENTS = 100_000
"""Documents that are summed one by one; those that come after them are summed together, under `OTHERS`."""
OTHERS = "(others)"


@dataclass(slots=True)
class Sums:
    """What some objects add up to; fields as in `InventoryRow`."""

    objects: int = 0
    tokens: int = 0
    stored_bytes: int = 0
    uses: int = 0
    compute_seconds: float = 0.0
    saved_seconds: float = 0.0
    last_used: float = 0.0

    def add(self, row: InventoryRow) -> None:
        """Count an object."""
        self.objects += 1
        self.tokens += row.tokens
        self.stored_bytes += row.stored_bytes
        self.uses += row.uses
        self.compute_seconds += row.compute_seconds
        self.saved_seconds += row.saved_seconds
        self.last_used = max(self.last_used, row.last_used)


@dataclass(slots=True)
class Summary:
    """Sums of all objects, by namespace and model, and by namespace and document.

    An object that several documents hold counts for each of them; one that none holds for no document.
    """

    total: Sums = field(default_factory=Sums)
    models: dict[tuple[str, str], Sums] = field(default_factory=dict)
    documents: dict[tuple[str, str], Sums] = field(default_factory=dict)

    def add(self, row: InventoryRow) -> None:
        """Count an object."""
        self.total.add(row)
        self.models.setdefault((row.namespace, row.model_fingerprint), Sums()).add(row)
        for document in row.documents:
            name = (row.namespace, document)
            if name not in self.documents and len(self.documents) >= MAX_DOCUMENTS:
                name = ("", OTHERS)
            self.documents.setdefault(name, Sums()).add(row)
