"""A coarse version that a router keeps is made finer by what is missing."""

from dataclasses import replace

import numpy as np

from kvquilt import Client
from tests.router.profiles.calls import DOCUMENT, blended, node_at, reasons
from tests.stack import router_only, serve


def test_a_finer_level_fetches_only_what_is_missing_and_gives_the_same_bits(model, path, tmp_path):
    with node_at(0, tmp_path) as node:
        options = {"profile": str(path), "background": False}
        with (
            router_only(model, node, **options) as plain,
            router_only(model, node, held_bytes=1 << 24, **options) as keeping,
            Client(plain) as direct,
            Client(keeping) as held,
        ):
            list(direct.prefetch([DOCUMENT]))
            fetched = {}
            for level in ("low", "medium", "high"):
                expected, keys = blended(direct, level)
                got, same = blended(held, level)
                assert np.array_equal(keys, same)
                fetched[level] = (expected.report.fetched_bytes, got.report.fetched_bytes)
            assert fetched["low"][0] == fetched["low"][1]
            (_, first), (_, second), (whole, third) = fetched.values()
            assert third < whole / 2
            heads = first + second + third - whole
            assert 0 < heads < whole / 4, "the head three times, every section once"
            for level in ("low", "high"):
                kv, keys = blended(held, level)
                assert kv.report.fetched_bytes == 0
                assert np.array_equal(keys, blended(direct, level)[1])
            direct.forget(DOCUMENT.document_id)
            assert reasons(blended(held, "high")[0]) == ["not_stored"], "what is forgotten is not used"


def test_what_is_held_of_an_object_that_was_stored_anew_is_fetched_again(model, path, tmp_path):
    options = {"profile": str(path), "background": False, "held_bytes": 1 << 24}
    with serve(model, tmp_path, **options) as router, Client(router) as client:
        list(client.prefetch([DOCUMENT]))
        blended(client, "low")
        client.forget(DOCUMENT.document_id)
        list(client.prefetch([replace(DOCUMENT, document_id="another")]))  # its head names another document
        kv, _ = blended(client, "high")
        assert reasons(kv) == [""]
        assert blended(client, "high")[0].report.fetched_bytes == 0
        assert client.status().nodes[0].objects == 1, "nothing was taken for damaged"
