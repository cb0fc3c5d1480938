"""Version 1 of the wire vocabulary (protobuf package `kvquilt.v1`)."""
