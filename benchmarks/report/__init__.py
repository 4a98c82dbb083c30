"""The parts of `benchmarks/gpu_report.py`: cases, measurements, training steps, tables."""
