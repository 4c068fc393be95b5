"""Products in bfloat16 on processors with units for it; everything else stays float32.

oneDNN rounds the factors of batched products to bfloat16 (8 bits of fraction) and sums in float32,
so weights, losses, norms and what passes between operations keep their precision. Standard library
only: it must come before TensorFlow's first product.
"""

import os
import pathlib

VARIABLE = "TF_SET_ONEDNN_FPMATH_MODE"


def prefer_bfloat16(cpu: str | os.PathLike = "/proc/cpuinfo") -> bool:
    """Chooses bfloat16 for this process where that pays and nobody has chosen yet.

    Args:
      cpu: what the kernel says of the processors.

    Returns:
      Whether products are in bfloat16 now.
    """
    if VARIABLE not in os.environ and _has_amx(pathlib.Path(cpu)):
        os.environ[VARIABLE] = "BF16"
    return in_bfloat16()


def in_bfloat16() -> bool:
    """Whether products of this process are in bfloat16."""
    return os.environ.get(VARIABLE) == "BF16"


def _has_amx(cpu: pathlib.Path) -> bool:
    try:
        return "amx_bf16" in cpu.read_text(encoding="utf-8").split()
    except OSError:  # another operating system
        return False
