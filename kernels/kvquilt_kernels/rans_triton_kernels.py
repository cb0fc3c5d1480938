"""The entropy decoder in Triton: one program a stream, its lanes the vector (docs/entropy.md, Decoding).

Streams may be hostile: every load is masked to its array, and every loop is bounded by the shape that the caller gave.
With TRITON_INTERPRET=1 in the environment when this module is imported, the kernels run in Triton's interpreter, on a
CPU and slowly.
"""

import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether the kernels run in Triton's interpreter."""

TOO_FEW_WORDS = tl.constexpr(1)
WRONG_END = tl.constexpr(2)
UNKNOWN_TABLE = tl.constexpr(4)
"""Bits of a stream's faults."""

SLOT_BITS = tl.constexpr(11)
SLOT_MASK = tl.constexpr(2047)
SYMBOL_SHIFT = tl.constexpr(22)
LOWEST = tl.constexpr(1 << 16)

# What stands for an escape until `place_escapes`: bits that no value has, of NaN and of an integer below -2^30.
INT32_MARK = tl.constexpr(0x80000000)
FLOAT32_MARK = tl.constexpr(0xFFFFFFFF)
BFLOAT16_MARK = tl.constexpr(0xFFFF)


@triton.jit
def _bits_of_quantum(quantum, step, kind: tl.constexpr):
    """Bits of an integer, or of `float32(quantum) * step` as float32 or rounded half to even to bfloat16."""
    if kind == "int32":
        bits = quantum.to(tl.uint32, bitcast=True)
    else:
        bits = (quantum.to(tl.float32) * step).to(tl.uint32, bitcast=True)
    if kind == "bfloat16":
        # In integers: the interpreter's own conversion truncates.
        bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16)
    return bits


@triton.jit
def _mark(kind: tl.constexpr):
    """Bits that stand for an escape."""
    if kind == "int32":
        mark = tl.full([], INT32_MARK, tl.uint32)
    elif kind == "float32":
        mark = tl.full([], FLOAT32_MARK, tl.uint32)
    else:
        mark = tl.full([], BFLOAT16_MARK, tl.uint16)
    return mark


@triton.jit(do_not_specialize=["tokens", "contexts_known", "tables_known", "alphabet"])
def decode(
    states,
    words,
    word_offsets,
    slots,
    table_ids,
    contexts,
    steps,
    out,
    escape_counts,
    faults,
    tokens,
    channels,
    contexts_known,
    tables_known,
    alphabet,
    kind: tl.constexpr,
    lanes: tl.constexpr,
):
    """Decode stream `program_id(0)`.

    Args:
        states: uint32 `[streams, lanes]`, each at least 2^16.
        words: uint16, those of all streams.
        word_offsets: int64 `[streams + 1]`, where in `words` a stream's begin; the last is the end.
        slots: uint32 `[tables, 2048]`, of each slot `symbol << 22 | (f - 1) << 11 | (slot - c)`.
        table_ids: uint8 `[streams, contexts, channels]`.
        contexts: uint8 `[streams, tokens, channels]`; None stands for zeros.
        steps: float32 `[streams]`, for kinds "float32" and "bfloat16".
        out: `[streams, tokens, channels]`: uint8 symbols, or uint32 or uint16 bits of values; an escape is a mark.
        escape_counts: uint8 `[streams, tokens, groups]`, the escapes of each group of lanes; kind "symbols" has none.
        faults: int32 `[streams]`, 0 for a sound stream.
        tokens: T.
        channels: C.
        contexts_known: rows of `table_ids`.
        tables_known: rows of `slots`.
        alphabet: A.
        kind: "symbols", "int32", "float32" or "bfloat16".
        lanes: N.
    """
    stream = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, lanes)
    x = tl.load(states + stream * lanes + lane)
    at = tl.load(word_offsets + stream)
    end = tl.load(word_offsets + stream + 1)
    step = 0.0
    if kind == "float32" or kind == "bfloat16":
        step = tl.load(steps + stream)
    unknown = tl.zeros([lanes], tl.int32)
    out += stream * tokens * channels
    table_ids += stream * contexts_known * channels
    if contexts is not None:
        contexts += stream * tokens * channels
    if kind != "symbols":
        escape_counts += stream * tokens * tl.cdiv(channels, lanes)
    for group in range(0, channels, lanes):
        channel = group + lane
        coded = channel < channels
        if contexts is None:
            table = tl.load(table_ids + channel, mask=coded, other=0).to(tl.int32)
        row = tl.zeros([], tl.int64)
        for token in range(tokens):
            if contexts is not None:
                context = tl.load(contexts + row + channel, mask=coded, other=0).to(tl.int32)
                known = context < contexts_known
                unknown |= (~known).to(tl.int32)
                table = tl.load(table_ids + context.to(tl.int64) * channels + channel, mask=coded & known, other=0).to(
                    tl.int32
                )
            unknown |= (table >= tables_known).to(tl.int32)
            slot = (x & SLOT_MASK).to(tl.int32)
            entry = tl.load(slots + (table << SLOT_BITS) + slot, mask=table < tables_known, other=0)
            symbol = entry >> SYMBOL_SHIFT
            frequency = ((entry >> SLOT_BITS) & SLOT_MASK) + 1
            x = tl.where(coded, frequency * (x >> SLOT_BITS) + (entry & SLOT_MASK), x)
            low = coded & (x < LOWEST)
            escaped = coded & (symbol == alphabet - 1)
            # One reduction counts both: at most 128 lanes need a word, at most 128 are escapes.
            counted = low.to(tl.int32) + (escaped.to(tl.int32) << 16)
            place = at + (tl.cumsum(counted, 0) & 0xFFFF) - low.to(tl.int32)
            word = tl.load(words + place, mask=low & (place < end), other=0).to(tl.uint32)
            x = tl.where(low, (x << 16) | word, x)
            total = tl.sum(counted, 0)
            at += total & 0xFFFF
            if kind == "symbols":
                tl.store(out + row + channel, symbol.to(tl.uint8), mask=coded)
            else:
                quantum = symbol.to(tl.int32) - ((alphabet - 2) >> 1)
                bits = tl.where(escaped, _mark(kind), _bits_of_quantum(quantum, step, kind))
                tl.store(out + row + channel, bits, mask=coded)
                tl.store(escape_counts + token * tl.cdiv(channels, lanes) + group // lanes, (total >> 16).to(tl.uint8))
            row += channels
    fault = tl.max(unknown, 0) * UNKNOWN_TABLE
    fault |= (at > end).to(tl.int32) * TOO_FEW_WORDS
    fault |= ((at != end) | (tl.max((x != LOWEST).to(tl.int32), 0) != 0)).to(tl.int32) * WRONG_END
    tl.store(faults + stream, fault)


@triton.jit(do_not_specialize=["tokens"])
def place_escapes(
    out,
    escape_counts,
    firsts,
    escapes,
    escape_offsets,
    steps,
    tokens,
    channels,
    kind: tl.constexpr,
    lanes: tl.constexpr,
):
    """Replace the marks of one token of one stream, `program_id(0) = stream * tokens + token`, by their values.

    Escapes are listed token by token, within a token channel by channel, which is not the order of decoding.

    Args:
        out: from `decode`.
        escape_counts: from `decode`.
        firsts: int64 `[streams, tokens]`, which of `escapes` is a token's first.
        escapes: int32, those of all streams.
        escape_offsets: int64 `[streams + 1]`, where in `escapes` a stream's begin; the last is the end.
        steps: as for `decode`.
        tokens: T.
        channels: C.
        kind: "int32", "float32" or "bfloat16".
        lanes: N.
    """
    row = tl.program_id(0).to(tl.int64)
    stream = row // tokens
    lane = tl.arange(0, lanes)
    at = tl.load(firsts + row)
    end = tl.load(escape_offsets + stream + 1)
    step = 0.0
    if kind != "int32":
        step = tl.load(steps + stream)
    out += row * channels
    escape_counts += row * tl.cdiv(channels, lanes)
    for group in range(0, channels, lanes):
        count = tl.load(escape_counts + group // lanes).to(tl.int32)
        if count > 0:
            channel = group + lane
            bits = tl.load(out + channel, mask=channel < channels, other=0)
            marked = bits == _mark(kind)
            place = at + tl.cumsum(marked.to(tl.int32), 0) - 1
            listed = marked & (place < end)
            quantum = tl.load(escapes + place, mask=listed, other=0)
            tl.store(out + channel, _bits_of_quantum(quantum, step, kind), mask=listed)
            at += count
