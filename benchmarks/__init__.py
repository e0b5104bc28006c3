"""Speed, measured: ``python -m benchmarks.dense``, ``benchmarks.overhead``, ``benchmarks.startup``."""
