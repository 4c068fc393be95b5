"""The benchmark: is this embedding good? Consumer matching by full ranking, beside baselines."""

from guim_tf.evaluation.command import evaluate, main

__all__ = ["evaluate", "main"]
