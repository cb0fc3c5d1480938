"""What a router takes as a worker's KV, and what it refuses."""

import grpc
import numpy as np
import pytest

from kvquilt import Client
from kvquilt.errors import BadRequestError
from kvquilt.worker import Extent, KvToSave, WorkerRequest
from kvquilt.worker import wire as worker_wire
from kvquilt_proto.v1 import common_pb2, router_pb2_grpc
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc import frames
from kvquilt_rpc.status import from_rpc_error
from tests.stack import serve
from tests.worker.conftest import Worker, asked, tokens

TEXT = tokens(300)


class Raw:
    """Sends what no well-behaved worker sends."""

    def __init__(self, worker):
        self.worker = worker
        self.layers = worker.computed(TEXT)
        saving = KvToSave(asked(TEXT), self.layers, exact_tokens=len(TEXT))
        self.header = worker_wire.store_header(saving, worker.model, None)
        self.payload = b"".join(array.tobytes() for layer in self.layers for array in layer)

    def send(self, header=None, payload=None, messages=None):
        """The answer, or the error."""
        header = self.header if header is None else header
        data = self.payload if payload is None else payload
        parts = [pb.StoreKvRequest(header=header)] if header else []
        parts += [pb.StoreKvRequest(frame=frame) for frame in frames.split([data])]
        with grpc.insecure_channel(self.worker.address) as channel:
            try:
                return router_pb2_grpc.RouterServiceStub(channel).StoreKv(
                    iter(parts if messages is None else messages), timeout=60
                )
            except grpc.RpcError as error:
                return from_rpc_error(error)

    def changed(self, **fields):
        header = pb.StoreKvHeader()
        header.CopyFrom(self.header)
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(header, name)[:]
                getattr(header, name).extend(value)
            elif value is None:
                header.ClearField(name)
            else:
                setattr(header, name, value)
        return header

    def stored(self):
        with Client(self.worker.address) as client:
            return client.status().counters["tokens_written"]


@pytest.fixture(scope="module")
def raw(tiny_model, tmp_path_factory):
    with serve(tiny_model, tmp_path_factory.mktemp("store"), chunk_tokens=64, save_bytes=1 << 20) as address:
        worker = Worker(tiny_model, address)
        yield Raw(worker)
        worker.cache.close()


HEADERS = {
    "another model": ({"model_fingerprint": "0" * 64}, "fingerprint_mismatch"),
    "no model": ({"model_fingerprint": ""}, "fingerprint_mismatch"),
    "an unknown model": ({"model": "another"}, "unknown_model"),
    "no tokens": ({"token_ids": []}, "bad_request"),
    "tokens beyond the vocabulary": ({"token_ids": [9999] * 300}, "bad_request"),
    "more tokens than the model's context": ({"token_ids": [5] * 20_000}, "bad_request"),
    "fewer tokens than KV": ({"token_ids": [5] * 299}, "bad_request"),
    "nothing between begin and end": ({"begin": 300}, "bad_request"),
    "an end beyond the tokens": ({"end": 301}, "bad_request"),
    "KV beyond what is exact": ({"exact_tokens": 299}, "not_exact"),
    "nothing said of what is exact": ({"exact_tokens": None}, "not_exact"),
    "another size than the layout's": ({"payload_bytes": 17}, "bad_request"),
    "an impossible size": ({"payload_bytes": 1 << 63}, "bad_request"),
    "documents without a prefix": ({"document_tokens": [100]}, "bad_request"),
    "documents beyond the tokens": ({"prefix_tokens": 10, "document_tokens": [100, 2000]}, "bad_request"),
    "lengths that overflow": ({"prefix_tokens": 2**32 - 1, "document_tokens": [2**32 - 1] * 9}, "bad_request"),
    "an empty document": ({"prefix_tokens": 10, "document_tokens": [0]}, "bad_request"),
    "a public segment that there is not": ({"prefix_tokens": 10, "public_segments": [1]}, "bad_request"),
    "a document id that cannot be": ({"document_ids": [""]}, "bad_request"),
    "a level without a profile": ({"level": common_pb2.LEVEL_LOW}, "no_profile"),
    "an impossible time to live": ({"ttl_seconds": -1.0}, "bad_request"),
    "an impossible time per token": ({"worker_seconds_per_token": float("nan")}, "bad_request"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_cannot_be_is_refused(raw, what):
    fields, reason = HEADERS[what]
    assert raw.send(raw.changed(**fields)).reason == reason
    assert raw.stored() == 0


def test_another_layout_is_refused(raw):
    header = raw.changed()
    header.layout.data_type = common_pb2.DATA_TYPE_BFLOAT16
    assert raw.send(header).reason == "fingerprint_mismatch"
    header = raw.changed()
    del header.layout.layers[-1]
    assert raw.send(header).reason == "fingerprint_mismatch"


def test_a_stream_that_does_not_add_up_is_refused_and_nothing_of_it_stored(raw):
    frame = common_pb2.Frame(offset=0, data=raw.payload[:1000])
    header = pb.StoreKvRequest(header=raw.header)
    assert raw.send(payload=raw.payload[:-1]).reason == "integrity"
    assert raw.send(payload=raw.payload + b"x").reason == "integrity"
    assert raw.send(payload=b"").reason == "integrity"
    assert raw.send(messages=[]).reason == "bad_request"
    assert raw.send(messages=[pb.StoreKvRequest(frame=frame)]).reason == "bad_request"
    assert raw.send(messages=[header, header]).reason == "bad_request"
    late = common_pb2.Frame(offset=7, data=raw.payload[:1000])
    assert raw.send(messages=[header, pb.StoreKvRequest(frame=late)]).reason == "integrity"
    assert raw.stored() == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_kv_that_is_not_finite_is_refused_and_nothing_of_it_stored(raw, wrong):
    words = np.frombuffer(raw.payload, np.float32).copy()
    words[-1] = wrong
    assert raw.send(payload=words.tobytes()).reason == "bad_request"
    assert raw.stored() == 0


def test_more_at_once_than_there_is_room_for_is_refused_and_counted(raw):
    text = tokens(1200, seed=4)
    worker = raw.worker
    layers = worker.computed(text)
    assert worker.model.layout.nbytes(1200) > 1 << 20
    assert worker.cache.save(KvToSave(asked(text), layers, exact_tokens=1200))
    worker.cache.settle()
    assert worker.cache.counters()["saves_failed"] == 1
    with Client(worker.address) as client:
        assert client.status().counters["saves_dropped"] == 1
    assert raw.stored() == 0


def test_what_is_right_is_stored_after_all_that(raw):
    answer = raw.send()
    assert answer.chunks_failed == 0
    assert answer.tokens == raw.stored() > 300 - 64


def test_the_library_refuses_what_a_caller_gets_wrong(raw):
    worker = raw.worker

    def save(layers=raw.layers, exact_tokens=300, **options):
        worker.cache.save(KvToSave(asked(TEXT), layers, exact_tokens, **options))

    with pytest.raises(BadRequestError, match="299 are exact"):
        save(exact_tokens=299)
    with pytest.raises(BadRequestError, match="layers"):
        save(raw.layers[:-1])
    with pytest.raises(BadRequestError, match="tokens 1 to 301"):
        save(begin=1)
    with pytest.raises(BadRequestError, match="keys of layer 0"):
        save([(keys.astype(np.float16), values) for keys, values in raw.layers])
    with pytest.raises(BadRequestError, match="values of layer 0"):
        save([(keys, values[:1]) for keys, values in raw.layers])
    for options in (
        {"document_tokens": (5,)},
        {"prefix_tokens": 300},
        {"prefix_tokens": -1},
        {"prefix_tokens": 3, "document_tokens": (0,)},
        {"computed_tokens": 301},
        {"extent": Extent.NOTHING},
    ):
        with pytest.raises(BadRequestError):
            WorkerRequest(TEXT, **options)
    with pytest.raises(BadRequestError, match="empty"):
        WorkerRequest(TEXT[:0])
