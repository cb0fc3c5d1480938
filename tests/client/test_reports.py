"""What a router reports is checked before anybody acts on it."""

import pytest

from kvquilt import wire
from kvquilt.errors import IntegrityError
from kvquilt_proto.v1 import router_pb2 as pb


def message(positions, deviations, reused=2):
    return pb.BlendReport(
        tokens_reused=reused, tokens_computed=8, reused_positions=positions, reused_deviations=deviations
    )


def test_reused_tokens_come_with_their_deviations():
    report = wire.report(message([3, 9], [0.5, 0.0]))
    assert (report.reused_positions, report.reused_deviations) == ((3, 9), (0.5, 0.0))
    assert wire.report(message([], [])).reused_positions == ()


@pytest.mark.parametrize(
    ("positions", "deviations"),
    [
        ([3, 9], [0.5]),
        ([3], [0.5]),
        ([9, 3], [0.5, 0.5]),
        ([3, 3], [0.5, 0.5]),
        ([3, 10], [0.5, 0.5]),
        ([3, 9], [0.5, float("inf")]),
        ([3, 9], [0.5, float("nan")]),
        ([3, 9], [0.5, -1.0]),
    ],
)
def test_reused_tokens_that_cannot_be_are_refused(positions, deviations):
    with pytest.raises(IntegrityError, match="expected"):
        wire.report(message(positions, deviations))
