"""From the planes of a room to what is seen from its receiver."""
