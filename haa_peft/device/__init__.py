"""What the device at the receiver sends in each direction, and what it does to the levels of a room's responses."""
