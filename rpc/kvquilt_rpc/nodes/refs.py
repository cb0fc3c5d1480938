"""Where an object is."""

from dataclasses import dataclass

from kvquilt_codec.catalog import ObjectInfo


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """What is needed to find an object on one of several nodes.

    Attributes:
        key: of the object.
        chunk_key: of its text: all objects of one text belong on one node.
        node: address of the node that said it has the object; empty: not known.
    """

    key: bytes
    chunk_key: bytes
    node: str = ""

    @classmethod
    def of(cls, info: ObjectInfo) -> "ObjectRef":
        """An object that a look-up found."""
        return cls(info.key, info.meta.chunk_key, info.node)
