"""When bearer tokens expire: what a token says of itself, and which of the callers' tokens are in use."""

import base64
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvquilt_rpc.security import Credentials
from kvquilt_rpc.watched import read

ASSUMED_LIFETIME = 10 * 86400.0
"""Seconds, of a token that does not say since when it holds."""
SOON_SHARE = 0.1
"""A token with less of its lifetime left should have been renewed by now: who renews by itself does so at a third
(cert-manager) or at a fifth (Kubernetes' tokens of service accounts)."""
IN_USE_SECONDS = 600.0
"""A caller's token is in use for so long after a call."""
MAX_TENANTS = 1024


@dataclass(frozen=True, slots=True)
class TokenEnd:
    """When a token expires.

    Attributes:
        expires: seconds since 1970.
        lifetime: seconds from its issue to that.
    """

    expires: float
    lifetime: float

    def share_left(self, now: float) -> float:
        """Share of its lifetime that is left; below 0 once it has expired.

        Args:
            now: seconds since 1970.
        """
        return (self.expires - now) / self.lifetime


def end_of(claims: Mapping[str, Any]) -> TokenEnd | None:
    """When a token with these claims expires, by `exp` and `iat`, else `nbf`; `None`: it does not say."""
    expires = _seconds(claims.get("exp"))
    if expires is None:
        return None
    issued = next((at for name in ("iat", "nbf") if (at := _seconds(claims.get(name))) is not None), None)
    known = issued is not None and issued < expires
    return TokenEnd(expires, expires - issued if known and issued is not None else ASSUMED_LIFETIME)


def token_of(credentials: Credentials) -> str:
    """The bearer token by which somebody calls, as its file is now; empty: none.

    Raises:
        NotFoundError, BadRequestError: the file cannot be read.
    """
    if credentials.token_file is not None:
        return read(credentials.token_file).decode("ascii", "replace").strip()
    return "" if credentials.token is None else credentials.token.get_secret_value().strip()


def stated_end(token: str) -> TokenEnd | None:
    """When a JSON Web Token expires, which nobody has verified; `None`: it does not say, or is none."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, LookupError, RecursionError):
        return None
    return end_of(claims) if isinstance(claims, dict) else None


def _seconds(claim: object) -> float | None:
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        return None
    try:
        return float(claim) if math.isfinite(claim) else None
    except OverflowError:
        return None


@dataclass(slots=True)
class _Use:
    end: TokenEnd
    latest: float


class TokensInUse:
    """Of the tokens that callers use now, the one of each tenant that has the least of its lifetime left.

    At most 1,024 tenants are known: those that called last.
    """

    def __init__(self) -> None:
        self._uses: OrderedDict[str, _Use] = OrderedDict()

    def used(self, tenant: str, end: TokenEnd, now: float) -> None:
        """A genuine token was shown, whether it still holds or not.

        Args:
            tenant: its first namespace.
            end: see there.
            now: seconds since 1970.
        """
        use = self._uses.get(tenant)
        if use is None or use.end == end or now - use.latest > IN_USE_SECONDS or _before(end, use.end, now):
            self._uses[tenant] = _Use(end, now)
        self._uses.move_to_end(tenant)
        while len(self._uses) > MAX_TENANTS:
            self._uses.popitem(last=False)

    def ends(self, now: float) -> dict[str, TokenEnd]:
        """By tenant, when that token expires."""
        return {tenant: use.end for tenant, use in self._uses.items() if now - use.latest <= IN_USE_SECONDS}


def _before(one: TokenEnd, other: TokenEnd, now: float) -> bool:
    return one.share_left(now) < other.share_left(now)
