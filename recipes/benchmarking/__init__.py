"""What ``recipes/benchmark.py`` measures, and with what."""
