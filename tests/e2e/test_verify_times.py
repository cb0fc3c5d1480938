"""Whether `kvquilt verify` tells where loading pays, and where it does not."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kvquilt_router.engine.model import prepare
from tests.e2e.verifying import outcomes, verified
from tests.proxy import throttle
from tests.router.families import HEAVY, SUPPORTED, tiny
from tests.stack import in_thread, node_process, router_only, serve


def test_where_loading_is_slower_than_computing_off_is_recommended(tmp_path):
    model = prepare(tiny(*SUPPORTED["llama"]), None, "tiny")
    with node_process(tmp_path) as (_, node):
        slow = in_thread(lambda: throttle(node, 1 << 14, 0.03))
        with slow as address, router_only(model, [address], fetch_deadline=60) as router:
            checks, found = verified(router, "--tokens", "256", "--repeats", "1", code=1)
    assert outcomes(checks, "failed") == {"gate", "exact-faster", "blended-faster"}
    assert found["recommendation"] == "off"
    assert found["timing"]["exact_s"] > found["timing"]["prefill_s"]
    assert "off" in checks["exact-faster"]["advice"]


def test_where_loading_is_faster_on_is_recommended_unless_the_engine_is_faster_still(tmp_path):
    heavy = prepare(tiny("LlamaConfig", HEAVY), None, "heavy")
    timed = ["--tokens", "256", "--repeats", "1"]
    with serve(heavy, tmp_path) as router, completions() as (engine, asked):
        checks, found = verified(router, *timed, code=1)
        slower = outcomes(checks, "failed") - {"gate"}  # none, but on a machine that is busy at the wrong moment
        assert slower <= {"exact-faster", "blended-faster"}
        recommended = {(): "on", ("blended-faster",): "exact_only"}
        assert found["recommendation"] == recommended.get(tuple(sorted(slower)), "off")
        assert found["timing"]["tokens"] == 256
        assert found["timing"]["engine_s"] is None
        checks, found = verified(router, *timed, "--engine-url", engine, code=1)
        assert outcomes(checks, "failed") == {"gate", "exact-faster", "blended-faster"}
        assert found["recommendation"] == "off"
        assert [len(request["prompt"]) for request in asked] == [256, 256]
        assert {str(request["kv_transfer_params"]) for request in asked} == {"{'kvquilt': {'off': True}}"}
        checks, _ = verified(router, *timed, "--engine-url", f"{engine}/elsewhere", code=1)
        assert "404" in checks["engine"]["got"]
    checks, _ = verified("127.0.0.1:1", "--engine-url", "ftp://nothing", code=1)
    assert checks["engine"]["outcome"] == "skipped"


@contextmanager
def completions():
    """An engine that computes in no time; its URL, and what it was asked. `make test-vllm` has the real one."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == "/v1/models"
            self._answer(json.dumps({"data": [{"id": "fast"}]}) if known else "", 200 if known else 404)

        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer('data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n')

        def _answer(self, text, code=200):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
