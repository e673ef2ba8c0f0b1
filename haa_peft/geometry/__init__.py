"""What bounds a room: planes or a depth map, and the panorama that its receiver sees of them."""
