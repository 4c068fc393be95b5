"""The data set as the page asks for it: users and items by what somebody types."""

import functools
import pathlib
import random
import sys

from guim_tf import schema
from serving.histories import Catalogue, History, Item, draw_users, load_histories

_SUGGESTED = 100  # users beside the field, and those that "any user" draws from


class Shop:
    """Users and items of a data set folder.

    Attributes:
      name: of the folder.
      as_of: the data set's own moment, seconds; histories end there.
      catalogue: the items.
      suggested: ids of some users with a history, drawn by chance.

    Raises:
      serving.histories.HistoryError: the folder is no finished data set, or damaged.
      guim_tf.schema.SchemaError: no schema, or one of another version.
    """

    def __init__(self, dataset: str | pathlib.Path) -> None:
        self._dataset = pathlib.Path(dataset)
        self.name = self._dataset.resolve().name
        self.as_of = schema.Schema.load(dataset).as_of
        self.catalogue = Catalogue(dataset)
        self.suggested = draw_users(dataset, number=_SUGGESTED)
        self.history = functools.lru_cache(maxsize=64)(self._history)

    def any_user(self) -> str:
        """One of `suggested`; "" where nobody has a history."""
        return random.choice(self.suggested) if self.suggested else ""

    def _history(self, user_id: str) -> History:
        """What a user did before `as_of`; reads the records until the user is found.

        Raises:
          serving.histories.HistoryError: unknown user.
        """
        [history] = load_histories(
            dataset=self._dataset,
            user_ids=[user_id],
            max_length=sys.maxsize,
            catalogue=self.catalogue,
        )
        return history

    def item(self, item_id: str) -> Item | None:
        """None for an unknown id."""
        return self.catalogue.by_id([item_id]).get(item_id)
