"""TLS towards everything that is called, and this machine's own certificates."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

from kvquilt.checks import Finding, Outcome, SkippedError, promise
from kvquilt.doctoring.handshakes import Handshake, Problem, handshake, own_certificate
from kvquilt.doctoring.places import Place, places
from kvquilt.doctoring.types import Part, Patient

SOON_DAYS = 14.0
"""A certificate that ends sooner should have been renewed by now."""
_DAY = 86400.0
_ADVICE = {
    Problem.PLAIN: "it was started without TLS: give it tls_cert and tls_key, or unset tls and tls_ca of whoever calls",
    Problem.TLS: "it was started with TLS: set tls_ca (client.credentials, router.node_credentials), or rediss:// and "
    "https:// in URLs",
    Problem.EXPIRED: "replace the files: servers read them again by themselves",
    Problem.NOT_YET: "see the check clocks",
    Problem.NAME: "issue one with the name by which it is called, or call it by a name that the certificate has",
    Problem.AUTHORITY: "give its authority in tls_ca (node.redis_ca), or issue a certificate of the one that is there",
    Problem.ASKS: "give the caller a certificate: tls_cert and tls_key (node.redis_certificate, node.redis_key)",
    Problem.REFUSES: "issue the caller's certificate of the authority in the server's tls_client_ca; see its end",
    Problem.OTHER: "look at both sides' logs",
}


async def tls(patient: Patient) -> Finding:
    """Everything that is called speaks what is set, with a certificate for its name that holds for two weeks more."""
    called = [place for place in places(patient) if place.port and (patient.running or not place.ours)]
    found = await asyncio.gather(*(_looked(place, patient) for place in called))
    looked = [(place, shake) for place, shake in zip(called, found, strict=True) if shake is not None]
    if not looked:
        raise SkippedError("nothing that is called takes connections", "see the check addresses")
    now = patient.clock()
    wrong = [(place, shake) for place, shake in looked if shake.problem]
    if wrong:
        got = "; ".join(f"{place.name}: {_words(shake)}" for place, shake in wrong)
        return Finding(Outcome.FAILED, promise(tls), got, _ADVICE[wrong[0][1].problem])
    ends = "; ".join(f"{place.name}: {_good(place, shake, now)}" for place, shake in looked)
    soon = any(shake.until and shake.until - now < SOON_DAYS * _DAY for _, shake in looked)
    advice = "renew it, and see why it was not" if soon else ""
    return Finding(Outcome.WARNED if soon else Outcome.PASSED, promise(tls), ends, advice)


async def _looked(place: Place, patient: Patient) -> Handshake | None:
    try:
        return await asyncio.to_thread(handshake, place, patient.patience)
    except (OSError, ValueError):
        return None  # that nobody is there, the addresses tell


def _words(shake: Handshake) -> str:
    return f"{shake.problem.value} ({shake.said})" if shake.said else shake.problem.value


def _good(place: Place, shake: Handshake, now: float) -> str:
    if not place.tls:
        return "clear text"
    mutual = ", and it checks the caller's certificate" if shake.mutual else ""
    return f"{shake.version}, signed by {shake.issuer}, {_days(shake.until, now)}{mutual}"


def _days(until: float, now: float) -> str:
    return f"{(until - now) / _DAY:.1f} days left" if until else "no end known"


async def certificates(patient: Patient) -> Finding:
    """This machine's own certificates hold for two weeks more."""
    now, expected = patient.clock(), promise(certificates)
    wrong, soon, good = [], [], []
    for setting, cert, key in _pairs(patient):
        try:
            found = await asyncio.to_thread(own_certificate, cert, key)
        except (OSError, ssl.SSLError) as error:
            wrong.append(f"{setting}: {cert} and its key: {error}")
            continue
        told = f"{setting}: signed by {found.issuer}, {_days(found.until, now)}" if not found.problem else ""
        if found.problem:
            wrong.append(f"{setting}: {cert}: {_words(found)}")
        elif found.until - now < SOON_DAYS * _DAY:
            soon.append(told)
        else:
            good.append(told)
    if not wrong and not soon and not good:
        raise SkippedError("no certificate is set")
    if wrong:
        return Finding(Outcome.FAILED, expected, "; ".join(wrong), _ADVICE[Problem.EXPIRED])
    outcome = Outcome.WARNED if soon else Outcome.PASSED
    return Finding(outcome, expected, "; ".join([*soon, *good]), "renew it, and see why it was not" if soon else "")


def _pairs(patient: Patient) -> Iterator[tuple[str, Path, Path]]:
    node, router, own = patient.node, patient.router, patient.credentials
    found = [
        (Part.NODE, "node.security.tls_cert", node.security.tls_cert, node.security.tls_key),
        (Part.NODE, "node.redis_certificate", node.redis_certificate, node.redis_key),
        (Part.ROUTER, "router.security.tls_cert", router.security.tls_cert, router.security.tls_key),
        (
            Part.ROUTER,
            "router.node_credentials.tls_cert",
            router.node_credentials.tls_cert,
            router.node_credentials.tls_key,
        ),
        (Part.CLIENT, "client.credentials.tls_cert", own.tls_cert, own.tls_key),
    ]
    for part, setting, cert, key in found:
        if part in patient.parts and cert is not None and key is not None:
            yield setting, cert, key
