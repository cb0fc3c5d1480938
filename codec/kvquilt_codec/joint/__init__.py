"""Keys and values of a layer coded together, in quality layers, with a model's profile."""

from kvquilt_codec.joint.coder import BlockDecoder, JointCoder

__all__ = ["BlockDecoder", "JointCoder"]
