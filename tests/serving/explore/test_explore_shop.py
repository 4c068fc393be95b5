"""Users and items by what somebody types."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving_testing import AS_OF, DAY, ITEMS

from guim_tf.schema import SchemaError
from serving.explore.shop import Shop
from serving.histories import Catalogue, HistoryError, draw_users


@pytest.fixture(scope="module")
def shop(dataset):
    return Shop(dataset)


def found(catalogue, text, count=10):
    return [item.item_id for item in catalogue.search(text, count)]


class TestUsers:
    def test_a_history_ends_at_the_moment_of_the_data_set(self, shop):
        history = shop.history("anna")

        assert history.as_of == AS_OF
        assert [(e.timestamp // DAY, e.item.item_id) for e in history.events] == [
            (1, "mug"),
            (2, "cup"),
            (99, "sofa"),
        ]

    def test_an_unknown_one_is_an_error_that_names_some(self, shop):
        with pytest.raises(HistoryError, match="No user 'nobody'.*'anna'"):
            shop.history("nobody")

    def test_suggested_are_those_with_a_history(self, shop):
        assert sorted(shop.suggested) == ["anna", "bert", "dave"]  # cora begins later
        assert {shop.any_user() for _ in range(200)} == {"anna", "bert", "dave"}

    def test_a_draw_is_as_large_as_can_be_and_depends_on_its_seed(self, dataset):
        assert len(draw_users(dataset, number=2)) == 2
        assert draw_users(dataset, number=3) == draw_users(dataset, number=99)
        assert len({draw_users(dataset, number=1, seed=seed) for seed in range(20)}) == 3

    def test_no_data_set(self, tmp_path):
        with pytest.raises(SchemaError, match="guim build-dataset"):
            Shop(tmp_path)


class TestItems:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("mug", ["mug"]),
            ("CUP tea", ["cup"]),  # all words, in any order and case
            ("à", ["lamp"]),
            ("l", ["cup", "lamp", "mug"]),
            ("[small]", ["cup"]),  # text, no pattern
            (".", []),
            ("  ", []),
            ("", []),
            ("desk", ["desk"]),  # by its id: it has no title
            ("so", ["sofa"]),
        ],
    )
    def test_search(self, dataset, text, expected):
        assert sorted(found(Catalogue(dataset), text)) == sorted(expected)

    def test_the_most_bought_come_first_and_so_many_as_asked_for(self, dataset):
        catalogue = Catalogue(dataset)

        assert found(catalogue, "a") == ["cup", "pan", "sofa", "lamp"]
        assert found(catalogue, "a", 2) == ["cup", "pan"]
        assert [item.item_id for item in catalogue.first(2)] == ["mug", "cup"]
        assert len(catalogue) == len(ITEMS)

    def test_the_item_of_that_very_id_comes_before_all(self, tmp_path):
        ids = ["22423A", "x", "22423"]
        pq.write_table(
            pa.table(
                {
                    "item_id": ids,
                    "item_key": [1, 2, 3],
                    "category_id": ["", None, ""],
                    "title": ["Cake stand", "like 22423", None],
                }
            ),
            tmp_path / "items.parquet",
        )
        assert found(Catalogue(tmp_path), " 22423 ") == ["22423", "22423A", "x"]
        assert found(Catalogue(tmp_path), "22423", 1) == ["22423"]

    def test_by_id(self, shop):
        assert shop.item("cup").title == "Tea cup [small]"
        assert shop.item("no such") is None
