"""What bounds a room, from planes, meshes, depth panoramas, photographs or nothing, as seen from its receiver."""
