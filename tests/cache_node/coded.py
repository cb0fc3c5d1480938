"""A profile, an object that is coded with it, and nodes that have them."""

from grpc import StatusCode

from kvquilt_codec.profile import file
from kvquilt_codec.types import Level
from tests.cache_node.calls import DEADLINE, Node
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, make_chunk, make_object

PROFILE = make_profile(distance=3.0)
DATA = file.dump(PROFILE)
DIGEST = file.digest(DATA)
CODER = make_coder(PROFILE)
CHUNK = make_chunk(300)
KEY, CONTAINER, META = make_object(CHUNK, Level.HIGH, "a document", coder=CODER)
BAD = (StatusCode.INVALID_ARGUMENT, "bad_request")


async def got(node: Node, **options: object) -> bytes:
    pieces = node.client.get(KEY, FINGERPRINT, deadline=DEADLINE, **options)
    return b"".join([piece async for piece in pieces if isinstance(piece, bytes)])
