"""Studies: many runs planned, kept as one file each, and reported with intervals and figures."""
