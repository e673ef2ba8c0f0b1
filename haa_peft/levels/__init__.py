"""How loud a room's RIRs are, in spans of time and octaves, at any position: the device at the receiver, and chance."""
