"""A new run begins with what another has learned, though the vocabularies differ (daily update).

A row of a table goes to the row of the same token. A token that the other model has not known
begins as the other model has seen it: an item or category with the common row of unknown ones, a
word with the row it was hashed into. So at the start both models give equal vectors to everything;
what has vanished from the vocabularies is unknown to the new one.
"""

import dataclasses
import pathlib
from typing import Any

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.config import Config
from guim_tf.layers.table import fill_rows
from guim_tf.lookup import ActionTable, Lookups
from guim_tf.model import GUIM
from guim_tf.runs import RESULT_FILE, load_config, load_optimizer, load_run
from guim_tf.schema import Schema, read_vocabulary
from guim_tf.strict_json import ConfigError


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where the rows of a table come from.

    source: `[rows]` int32, the other table's row for each; known: `[rows]` bool, False where that
    row stood for unknown tokens.
    """

    source: tf.Tensor
    known: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Change:
    """Tokens of a vocabulary that both models know, that are new, and that are retired."""

    kept: int
    new: int
    retired: int

    def __str__(self) -> str:
        return f"{self.kept:,} kept, {self.new:,} new, {self.retired:,} retired"


def require_alike(config: Config, schema: Schema, base: pathlib.Path) -> None:
    """Refuses a run that can't be carried on with a configuration and a data set.

    Raises:
      ConfigError: it is no finished run, of another network or state, or of words that are divided
        in another way; all of it is named.
    """
    old_config, old = load_config(base), Schema.load(base)
    if not (base / RESULT_FILE).is_file():
        raise ConfigError(
            f"the training of {base} has not ended. The `guim train` command that began it ends it."
        )
    a, b = _compared(config, schema), _compared(old_config, old)
    differences = [f"{name} is {a[name]!r} and was {b[name]!r}" for name in a if a[name] != b[name]]
    if differences:
        raise ConfigError(
            f"{base} can't be carried on: {'; '.join(differences)}. Leave that as it was, or train "
            "from zero, without --init-from."
        )


def _compared(config: Config, schema: Schema) -> dict[str, Any]:
    found = {f"model.{name}": value for name, value in dataclasses.asdict(config.model).items()}
    found["training.table_slots"] = config.training.table_slots
    for name in ("tokenizer", "word_hash_rows", "max_title_tokens"):
        found[name] = getattr(schema, name)
    return found


def warm_start(
    model: GUIM, run: pathlib.Path, schema: Schema, base: pathlib.Path
) -> dict[str, Change]:
    """Gives a compiled model the weights of another run, and its optimiser the state of it.

    The optimiser's step stays: schedules begin anew. State of rows that are new is zero, so that
    they learn fast at first.

    Args:
      model: freshly made, with an optimiser that has its variables.
      run: the model's run folder, for its vocabularies.
      schema: of that run.
      base: the other run, that `require_alike` has accepted.

    Returns:
      What became of each vocabulary.

    Raises:
      ConfigError: the other run is not trained.
      RunError: its checkpoint can't be read.
    """
    old, old_config, old_schema = load_run(base)
    old_optimizer = load_optimizer(base, old, old_config.training)
    rows = _rows(model, run, schema, base, old_schema)
    for new_variable, old_variable in zip(
        model.trainable_variables, old.trainable_variables, strict=True
    ):
        states = zip(
            model.optimizer.state_of(new_variable),
            old_optimizer.state_of(old_variable),
            strict=True,
        )
        of_table = rows.get(new_variable.ref())
        if of_table is None:
            new_variable.assign(old_variable)
            for state, old_state in states:
                state.assign(old_state)
        else:
            _fill(new_variable, old_variable, of_table.source)
            for state, old_state in states:
                _fill(state, old_state, of_table.source, where=of_table.known)
    model.optimizer.steps_before.assign(old_optimizer.steps_before + old_optimizer.iterations)
    return {name: _change(run / file, base / file) for name, file in names.VOCABULARY_FILES.items()}


def _rows(
    model: GUIM, run: pathlib.Path, schema: Schema, base: pathlib.Path, old_schema: Schema
) -> dict[Any, Rows]:
    """By the reference of a table's variable."""
    old, tables = Lookups(base, old_schema), model.item_encoder
    tokens = {
        name: tf.constant(read_vocabulary(run / file)[0], tf.string)
        for name, file in names.VOCABULARY_FILES.items()
    }
    found = {
        tables.item_table.embeddings.ref(): _of_ids(old.items(tokens["items"])),
        tables.category_table.embeddings.ref(): _of_ids(old.categories(tokens["categories"])),
        tables.word_table.embeddings.ref(): _of_words(old.words.rows(tokens["words"]), old_schema),
    }
    if model.user_encoder.action_table is not None:
        actions = ActionTable(old_schema.actions)(tf.constant(schema.actions, tf.string))
        found[model.user_encoder.action_table.embeddings.ref()] = _of_ids(actions)
    return found


def _of_ids(source: tf.Tensor) -> Rows:
    special = tf.range(names.FIRST_ROW, dtype=source.dtype)
    known = tf.concat([special == special, source != names.UNKNOWN_ROW], axis=0)
    return Rows(tf.cast(tf.concat([special, source], axis=0), tf.int32), known)


def _of_words(source: tf.Tensor, old: Schema) -> Rows:
    """The rows of words between padding and the hashed ones; see `Schema`."""
    hashed = tf.range(1 + old.words.size, old.word_rows, dtype=source.dtype)
    rows = tf.concat([[names.PADDING_ROW], source, hashed], axis=0)
    known = tf.concat([[True], source <= old.words.size, hashed == hashed], axis=0)
    return Rows(tf.cast(rows, tf.int32), known)


def _fill(
    new: tf.Variable, old: tf.Variable, source: tf.Tensor, *, where: tf.Tensor | None = None
) -> None:
    """Row i from row `source[i]`; zeros where `where` is False."""

    def values(rows: tf.Tensor) -> tf.Tensor:
        found = tf.gather(old, tf.gather(source, rows))
        if where is None:
            return found
        shape = [-1] + [1] * (len(found.shape) - 1)
        return tf.where(tf.reshape(tf.gather(where, rows), shape), found, 0.0)

    fill_rows(new, values)


def _change(new: pathlib.Path, old: pathlib.Path) -> Change:
    after, before = (set(read_vocabulary(file)[0]) for file in (new, old))
    return Change(len(after & before), len(after - before), len(before - after))
