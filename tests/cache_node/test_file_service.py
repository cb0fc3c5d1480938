"""Who may store what counts for all namespaces, on a node that asks who calls."""

from pathlib import Path

import pytest

from kvquilt_codec.errors import NotFoundError, PermissionDeniedError
from kvquilt_codec.gate import file
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials, ServerSecurity
from tests.cache_node.calls import DEADLINE
from tests.cache_node.coded import DATA, DIGEST
from tests.codec.gates import make_files
from tests.codec.samples import FINGERPRINT
from tests.rpc.certificates import Signer, node


async def test_only_operators_store_profiles_and_gates_and_others_read_them(tmp_path: Path) -> None:
    signer = Signer.new(tmp_path / "tokens.key")
    (gate,) = make_files(1, FINGERPRINT, DIGEST)
    async with node(ServerSecurity(token_key=signer.public)) as address:
        tokens = (signer.token("tenant", "a", public_write=True), signer.token("router", "*"))
        tenant, router = (NodeClient(address, Credentials(token=token)) for token in tokens)
        for put in (
            tenant.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE),
            tenant.gates.put(gate, deadline=DEADLINE),
        ):
            with pytest.raises(PermissionDeniedError, match="an operator") as caught:
                await put
            assert caught.value.reason == "operator_only"
        with pytest.raises(NotFoundError):
            await router.gates.get(DIGEST, FINGERPRINT, deadline=DEADLINE)
        assert await router.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
        assert await router.gates.put(gate, deadline=DEADLINE)
        assert file.load(await tenant.gates.get(DIGEST, FINGERPRINT, deadline=DEADLINE)) == file.load(gate)
        assert await tenant.profiles.get(DIGEST, FINGERPRINT, deadline=DEADLINE) == DATA
        await tenant.close()
        await router.close()
