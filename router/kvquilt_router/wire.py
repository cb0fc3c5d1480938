"""Router messages to the router's vocabulary. Everything that comes in is checked here."""

from collections.abc import Sequence

import numpy as np

from kvquilt_codec.catalog import MAX_SOURCES
from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_codec.levels import LevelRequest, parse_level
from kvquilt_codec.types import MAX_CHUNK_TOKENS, TokenIds, check_token_ids
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router.engine import LoadedModel
from kvquilt_router.policies import policy_by_name
from kvquilt_router.prefixes import KnownPrefixes, uncut
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.settings import AUTO, RouterSettings
from kvquilt_router.types import BlendOptions, Extent, Prompt, Wanted
from kvquilt_rpc import convert

MAX_DOCUMENT_TOKENS = 1 << 20
MAX_SEGMENTS = 4096
MAX_SECONDS_PER_TOKEN = 3600.0
_EMPTY = np.empty(0, np.uint32)


def content(message: pb.Content, model: LoadedModel, what: str) -> TokenIds:
    """Token ids of a content; may be empty.

    Raises:
        BadRequestError: neither text nor token ids, or too many of them.
    """
    form = message.WhichOneof("form")
    if form == "text":
        tokens = model.tokenise(message.text)
        if len(tokens) > MAX_DOCUMENT_TOKENS:
            raise BadRequestError(f"expected {what} of at most {MAX_DOCUMENT_TOKENS} tokens; got {len(tokens)}")
        return tokens
    if form == "tokens":
        ids = message.tokens.ids
        return check_token_ids(list(ids), MAX_DOCUMENT_TOKENS) if ids else _EMPTY
    raise BadRequestError(f"expected text or token ids for {what}; got neither")


def shared_prefix(message: pb.Content | None, model: LoadedModel) -> TokenIds:
    """Tokens of the shared prefix: those given, or the head of the model's chat template."""
    if message is not None:
        return content(message, model, "the shared prefix")
    return model.tokenise(model.frame.head) if model.frame.head else _EMPTY


def known_to_all(prefix: TokenIds, message: pb.Content | None, model: LoadedModel) -> bool:
    """Whether a shared prefix is public, or the head of the model's chat template."""
    return (message is not None and message.public) or np.array_equal(prefix, shared_prefix(None, model))


def prompt(message: pb.Prompt, model: LoadedModel, prefixes: KnownPrefixes) -> Prompt:
    """A prompt as token ids. Without a shared prefix of its own it is framed by the model's chat template.

    Raises:
        BadRequestError: an empty document or question, or too many documents.
    """
    if len(message.documents) > MAX_SEGMENTS:
        raise BadRequestError(f"expected at most {MAX_SEGMENTS} documents; got {len(message.documents)}")
    if message.HasField("plain"):
        return _plain(message, model, prefixes)
    given = message.HasField("shared_prefix")
    documents = tuple(content(d, model, f"document {i}") for i, d in enumerate(message.documents, start=1))
    for number, document in enumerate(documents, start=1):
        if len(document) == 0:
            raise BadRequestError(f"expected documents of at least one token; document {number} is empty")
    question = content(message.question, model, "the question")
    if len(question) == 0:
        raise BadRequestError("expected a question of at least one token; it is empty")
    if not given and model.frame.tail:
        question = np.concatenate([question, model.tokenise(model.frame.tail)])
    head = message.shared_prefix if given else None
    prefix = shared_prefix(head, model)
    public = [0] if head is not None and head.public else []
    public += [number for number, document in enumerate(message.documents, start=1) if document.public]
    return Prompt(
        prefix,
        documents,
        question,
        public=frozenset(public),
        known_prefix=bool(public) and known_to_all(prefix, head, model),
    )


def _plain(message: pb.Prompt, model: LoadedModel, prefixes: KnownPrefixes) -> Prompt:
    if message.documents or message.HasField("shared_prefix") or message.HasField("question"):
        raise BadRequestError("expected a plain prompt, or shared prefix, documents and question; got both")
    if message.plain.public:
        raise BadRequestError(
            "expected public text as a shared prefix or a document; got a plain prompt that is public"
        )
    tokens = content(message.plain, model, "the prompt")
    if len(tokens) == 0:
        raise BadRequestError("expected a prompt of at least one token; it is empty")
    return uncut(tokens, len(prefixes.of(tokens)))


def documents(message: pb.PrefetchRequest, model: LoadedModel) -> list[TokenIds]:
    """Token ids of every document that is to be prefetched."""
    return [content(document.content, model, f"document {document.document_id!r}") for document in message.documents]


def warm_up(message: pb.PrefetchRequest, model: LoadedModel) -> list[TokenIds]:
    """Token ids of the warm-up passages that a request gives.

    Raises:
        BadRequestError: too many passages, or one that is empty or longer than a chunk.
    """
    passages = [content(passage, model, "a warm-up passage") for passage in message.warm_up]
    wrong = [len(passage) for passage in passages if not 1 <= len(passage) <= MAX_CHUNK_TOKENS]
    if wrong or len(passages) > MAX_SOURCES:
        raise BadRequestError(
            f"expected at most {MAX_SOURCES} warm-up passages of 1..{MAX_CHUNK_TOKENS} tokens; got {len(passages)}"
            + (f", of them {len(wrong)} of other lengths" if wrong else "")
        )
    for passage in passages:
        model.engine.check(passage, len(passage))
    return passages


def level(message: pb.BlendOptions | pb.PrefetchRequest | pb.StoreKvHeader, settings: RouterSettings) -> LevelRequest:
    """What a request asks for: its level or bound, or else the router's default.

    Raises:
        BadRequestError: an unknown level, a bound that cannot be, or both.
    """
    kl_below = message.kl_below if message.HasField("kl_below") else None
    return convert.level_request_from_wire(message.level, kl_below, parse_level(settings.level))


def options(message: pb.BlendOptions, settings: RouterSettings, profile: ModelProfile) -> BlendOptions:
    """Blend options, defaults filled in.

    Raises:
        BadRequestError: an unknown policy or level, a level that takes a profile, a ratio outside 0..1, or a limit that
            is not above 0.
    """
    policy = message.policy if message.HasField("policy") else settings.policy
    ratio = message.recompute_ratio if message.HasField("recompute_ratio") else settings.recompute_ratio
    max_kl = message.max_kl if message.HasField("max_kl") else settings.max_kl
    if ratio is not None and not 0 <= ratio <= 1:
        raise BadRequestError(f"expected a recompute ratio in 0..1; got {ratio}")
    if not max_kl > 0:
        raise BadRequestError(f"expected a limit above 0 for max_kl, in nats; got {max_kl}")
    point = profile.point(level(message, settings))
    name = None if policy == AUTO else policy_by_name(policy).name
    return BlendOptions(name, ratio, point, max_kl, message.seed)


_EXTENTS = {
    pb.EXTENT_UNSPECIFIED: Extent.PROMPT,
    pb.EXTENT_PROMPT: Extent.PROMPT,
    pb.EXTENT_EXACT: Extent.EXACT,
    pb.EXTENT_AUTO: Extent.AUTO,
}


def wanted(message: pb.LoadOptions) -> Wanted:
    """What a worker asks for.

    Raises:
        BadRequestError: an unknown extent, or a time that is not above 0.
    """
    extent = _EXTENTS.get(pb.Extent.ValueType(message.extent))
    if extent is None:
        raise BadRequestError(f"expected extent prompt, exact or auto; got number {message.extent}")
    least = max(1, message.least_tokens)
    search = message.search or extent is Extent.AUTO
    seconds = seconds_per_token(message)
    return Wanted(extent, message.computed_tokens, least, seconds, message.leaves_tail, search)


def seconds_per_token(message: pb.LoadOptions | pb.StoreKvHeader) -> float | None:
    """What a worker takes to compute a token of a prompt, if it says.

    Raises:
        BadRequestError: a time that is not above 0.
    """
    if not message.HasField("worker_seconds_per_token"):
        return None
    seconds = message.worker_seconds_per_token
    if not 0 < seconds < MAX_SECONDS_PER_TOKEN:
        raise BadRequestError(
            f"expected worker_seconds_per_token above 0 and below {MAX_SECONDS_PER_TOKEN:g}; got {seconds}"
        )
    return seconds


def choose(models: Sequence[LoadedModel], name: str) -> LoadedModel:
    """The model of that name or fingerprint; with no name, the only one.

    Raises:
        NotFoundError: none, or no name although there are several.
    """
    if not name and len(models) == 1:
        return models[0]
    for model in models:
        if name and name in (model.name, model.fingerprint):
            return model
    raise NotFoundError(f"expected a model in {[model.name for model in models]}; got {name!r}", reason="unknown_model")
