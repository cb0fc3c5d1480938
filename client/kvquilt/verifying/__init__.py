"""Checks of a running router and its nodes, end to end. Start with `types`."""

from kvquilt.verifying.run import CHECKS, verify
from kvquilt.verifying.subject import Options, Subject
from kvquilt.verifying.types import Recommendation, Timing, Verification

__all__ = ["CHECKS", "Options", "Recommendation", "Subject", "Timing", "Verification", "verify"]
