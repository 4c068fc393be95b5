"""Colours of the page that code needs to know; the rest is in `assets/explore.css`."""

INK = "#1f2933"
GREY = "#d5dae0"
_INTERESTS = (
    "#4e79a7", "#e15759", "#59a14f", "#b07aa1", "#f28e2b", "#76b7b2", "#edc948", "#9c755f",
)  # fmt: skip


def colour_of(interest: int) -> str:
    """The colour of an interest, the same wherever it is shown."""
    return _INTERESTS[interest % len(_INTERESTS)]
