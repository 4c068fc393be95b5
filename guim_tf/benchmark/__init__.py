"""Many configurations over many seeds, trained, evaluated and compared with intervals."""

from guim_tf.benchmark.command import benchmark, main

__all__ = ["benchmark", "main"]
