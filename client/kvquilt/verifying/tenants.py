"""Does another tenant find what this one stored, and can this one have it forgotten."""

from kvquilt.aio import AsyncClient
from kvquilt.checks import Finding, Outcome, SkippedError, judged
from kvquilt.verifying.storing import LEVEL
from kvquilt.verifying.subject import QUESTION, Subject

_ONE_NAMESPACE = "both identities act in one namespace: give the tokens different ones, docs/security.md"


async def isolation_by_text(subject: Subject) -> Finding:
    """Another tenant that sends the very text finds nothing, in whatever way it sends it."""
    text = subject.stored
    other = _other(subject)
    expected = "another tenant that sends the same text finds none of it"
    found = [reason for reason in await subject.misses(text, level=LEVEL, client=other) if not reason]
    if found:
        return Finding(Outcome.FAILED, expected, f"{len(found)} chunks, as a document", _ONE_NAMESPACE)
    plain = [*text.tolist(), *QUESTION]
    options = {"level": LEVEL, "transient": True, "model": subject.options.model, "deadline": subject.options.deadline}
    report = (await other.blend_plain(plain, **options)).report  # type: ignore[arg-type]  # values of several types
    known = len(plain) - report.tokens_computed
    return judged(known == 0, expected, f"{known} tokens of it, in a plain prompt", _ONE_NAMESPACE)


async def isolation_by_document(subject: Subject) -> Finding:
    """Another tenant that forgets the document by its id forgets nothing."""
    text = subject.stored
    other = _other(subject)
    (document,) = (name for name, own in subject.documents.items() if own is text)
    receipt = await other.forget(document, deadline=subject.options.deadline)
    left = (await subject.blend(text, level=LEVEL)).kv.report.tokens_exact
    gone = receipt.objects_deleted or left != len(text)
    got = f"{receipt.objects_deleted} objects deleted, {left} of {len(text)} tokens left"
    return judged(not gone, "another tenant that forgets the document deletes nothing", got, _ONE_NAMESPACE)


async def forgetting(subject: Subject) -> Finding:
    """What is forgotten is deleted, by receipt, and missed from then on."""
    text = subject.stored
    (document,) = (name for name, own in subject.documents.items() if own is text)
    receipt = await subject.client.forget(document, deadline=subject.options.deadline)
    missed = await subject.misses(text, level=LEVEL)
    found = sum(not reason for reason in missed)
    pending = f", bytes of {receipt.objects_pending} to be deleted later" if receipt.objects_pending else ""
    return judged(
        receipt.objects_deleted > 0 and not found,
        "a receipt of deleted objects, then misses",
        f"{receipt.objects_deleted} objects, {receipt.bytes_deleted} bytes deleted{pending}; "
        f"then {found} of {len(missed)} chunks found",
        "`kvquilt forget` again when all nodes answer; several routers: docs/security.md, Forgetting a namespace",
    )


def _other(subject: Subject) -> AsyncClient:
    if subject.other is None:
        raise SkippedError("no second identity", "give one: --other-token FILE, of another namespace")
    return subject.other
