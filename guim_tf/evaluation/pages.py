"""Where pages get their templates from: a folder of their own, and the style and table of all."""

from __future__ import annotations

import pathlib

import jinja2


def template(file: str | pathlib.Path) -> jinja2.Template:
    """A template by its file; `style.html` and `table.html` of this folder can be included."""
    file = pathlib.Path(file)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([file.parent, pathlib.Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(file.name)
