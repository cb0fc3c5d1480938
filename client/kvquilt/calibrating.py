"""The command that measures a gate for a model as a router serves it, and what else may open a closed one."""

from kvquilt_codec.types import DataType

CALIBRATE_ANEW = "calibrate anew, on texts like those of your prompts: `kvquilt calibrate --texts`"
UNHEARD = "see `kvquilt doctor`: a router hears what was withdrawn from the first cache node that answers"


def calibrate_command(data_type: DataType, folder: str = "") -> str:
    """What to call, in the router's data type.

    Args:
        data_type: that the router computes in.
        folder: of the model; empty: not known.
    """
    # The rounding of 16-bit types alone is more than the default target.
    target = "" if data_type is DataType.FLOAT32 else "--kl 5e-3 "
    return f"kvquilt calibrate {folder or 'MODEL'} --dtype {data_type.value} {target}--output FILE"
