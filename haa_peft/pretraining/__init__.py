"""Training a backbone on simulated rooms, and its errors in rooms that it has not seen."""
