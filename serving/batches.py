"""Which requests fit together, and how they become one batch and its outputs theirs again."""

import itertools
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from guim_tf import schema
from serving.servable import Call

Arrays = Mapping[str, np.ndarray]


def rows_of(call: Call) -> int | None:
    """The rows that a request's inputs have in common; None where there is no such number."""
    sizes = {len(x) for name, x in call.inputs.items() if not _is_shared(name, x)}
    return sizes.pop() if len(sizes) == 1 else None


def key_of(call: Call, *, pad: bool) -> Hashable | None:
    """What requests must share to be run together; None for one that is run alone.

    Args:
      call: the request.
      pad: whether rows of unlike length may be filled up. Only lengths within a factor of two meet:
        a long history would make the others as long, and a client chooses it.
    """
    shared: list[Hashable] = [id(call.servable), call.signature_name]
    lengths = set()
    for name, array in sorted(call.inputs.items()):
        if _is_shared(name, array):
            shared.append((name, array.dtype, tuple(array.ravel().tolist())))
        elif pad and array.ndim > 1:
            lengths.add(array.shape[1])
            shared.append((name, array.shape[1].bit_length(), *array.shape[2:]))
        else:
            shared.append((name, *array.shape[1:]))
    # Lengths that disagree are the graph's to refuse: filled up they would agree.
    return tuple(shared) if len(lengths) <= 1 else None


def stack(calls: Sequence[Call], size: int) -> Arrays:
    """Inputs of requests of one key, row after row, filled up with blank rows to a size."""
    first = calls[0].inputs
    stacked = {
        name: _stack([call.inputs[name] for call in calls], size)
        for name, array in first.items()
        if not _is_shared(name, array)
    }
    return {**first, **stacked}


def cut(call: Call, rows: int, step: int) -> list[Arrays]:
    """Inputs of one request in pieces of so many rows."""
    return [
        {
            name: array if _is_shared(name, array) else array[start : start + step]
            for name, array in call.inputs.items()
        }
        for start in range(0, rows, step)
    ]


def join(pieces: Sequence[Arrays]) -> Arrays:
    """The outputs of one request from those of its pieces."""
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def split(outputs: Arrays, rows: Sequence[int], size: int) -> list[Arrays]:
    """The outputs of each request, of those of a batch.

    Args:
      outputs: of the batch.
      rows: of each request.
      size: of the batch.

    Raises:
      ValueError: an output has not a row for each row of the inputs.
    """
    for name, output in outputs.items():
        if output.ndim == 0 or len(output) != size:
            raise ValueError(
                f"Batched output tensor {name} of shape {output.shape} has not {size} rows. A "
                "model whose signatures don't answer row by row can't be batched."
            )
    ends = list(itertools.accumulate(rows))
    return [
        {name: output[end - n : end] for name, output in outputs.items()}
        for n, end in zip(rows, ends, strict=True)
    ]


def _is_shared(name: str, array: np.ndarray) -> bool:
    """Whether an input is of the whole request, and not of its rows."""
    return array.ndim == 0 or name == schema.CATEGORY_FILTER


def _stack(arrays: Sequence[np.ndarray], size: int) -> np.ndarray:
    """`[size, ...]`: the rows of arrays; shorter rows end, and missing ones are, blank."""
    if sum(len(a) for a in arrays) == size and len({a.shape[1:] for a in arrays}) == 1:
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    inner = tuple(max(sizes) for sizes in zip(*(a.shape[1:] for a in arrays), strict=True))
    dtype = arrays[0].dtype
    stacked = np.full((size, *inner), b"" if dtype.kind == "O" else 0, dtype)
    row = 0
    for array in arrays:
        place = (slice(row, row + len(array)), *(slice(n) for n in array.shape[1:]))
        stacked[place] = array
        row += len(array)
    return stacked
