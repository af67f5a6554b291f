"""Benchmarks: `python -m benchmarks` measures the solvers and writes benchmarks/results.md."""
