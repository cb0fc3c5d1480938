"""The names that users import."""

import kvquilt
import kvquilt.errors


def test_the_public_names_are_these():
    assert sorted(kvquilt.__all__) == [
        "AsyncClient",
        "BlendReport",
        "BlendedKV",
        "Client",
        "Credentials",
        "Document",
        "ForgetReport",
        "KvquiltError",
        "LiftReport",
        "MissReport",
        "PinReport",
        "PrefetchProgress",
        "Public",
        "Segment",
        "Status",
        "read_documents",
    ]
    assert all(hasattr(kvquilt, name) for name in kvquilt.__all__)


def test_every_error_is_below_one_base():
    errors = [getattr(kvquilt.errors, name) for name in kvquilt.errors.__all__]
    assert all(issubclass(error, kvquilt.KvquiltError) for error in errors)
    assert len({error.reason for error in errors}) == len(errors)
