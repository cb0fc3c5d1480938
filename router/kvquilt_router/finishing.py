"""What a finished request leaves behind: a record, rows in the access log, chunks to store, perhaps an audit."""

import time

from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router import answers
from kvquilt_router.blending import Blended
from kvquilt_router.offers import Loaded
from kvquilt_router.served import ServedModel
from kvquilt_router.tenants import Acting
from kvquilt_router.usage import describe
from kvquilt_router.why.recording import keep


def finish(
    done: Blended | Loaded, served: ServedModel, acting: Acting, *, transient: bool, background: bool
) -> pb.BlendReport:
    """Let a finished request leave behind what later ones gain from; its report.

    Args:
        done: see there.
        served: the model.
        acting: whose request it was.
        transient: it leaves nothing but sums and rows in the access log.
        background: what it missed may be stored.
    """
    waiting, requests = served.background.waiting(), acting.tenant.requests
    request_id = "" if transient else keep(done, waiting, requests, time.time())
    if isinstance(done, Blended) and not transient:
        if background:
            done.report.tokens_queued = served.background.leave(done, acting)
        served.auditor.offer(done, lambda kl: requests.audited(request_id, kl))
    if served.recorder is not None:
        served.recorder.record(done, acting.tenant.planner, request_id)
    report = answers.report_message(done.report)
    describe(report, done.report)
    report.request_id = request_id
    return report
