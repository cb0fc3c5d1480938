"""Checks of an installation, before it is started or while it runs. Start with `types`."""

from kvquilt.doctoring.run import CHECKS, diagnosed
from kvquilt.doctoring.types import Diagnosis, Part, Patient

__all__ = ["CHECKS", "Diagnosis", "Part", "Patient", "diagnosed"]
