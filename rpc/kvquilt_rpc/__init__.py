"""What both ends of a call stand on: server chassis, channels, bulk frames, errors on the wire, settings."""
