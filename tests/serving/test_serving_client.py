"""`guim recommend`: histories out of a data set folder, answers of a real server, what is shown."""

import io
import json
import shutil

import grpc
import numpy as np
import pytest
from rich.console import Console
from serving_testing import AS_OF, DAY, write_dataset

from guim_tf import schema
from serving import client, display, histories
from serving.client import Recommendation
from serving.histories import Event, History, HistoryError, Item


def load(dataset, *user_ids, **arguments):
    return histories.load_histories(dataset=dataset, user_ids=user_ids, **arguments)


def titles(history):
    return [event.item.title for event in history.events]


class TestHistories:
    def test_a_history_is_what_came_before_the_data_sets_own_moment(self, dataset):
        (anna,) = load(dataset, "anna")

        assert anna.as_of == AS_OF
        assert anna.events == (
            Event(Item("mug", "kitchen", "Blue mug"), 1 * DAY),
            Event(Item("cup", "kitchen", "Tea cup [small]"), 2 * DAY),
            Event(Item("sofa", "home", "Sofa"), 99 * DAY),
        )

    def test_another_moment_moves_the_cut(self, dataset):
        (before,) = load(dataset, "anna", as_of=99 * DAY)
        (after,) = load(dataset, "anna", as_of=99 * DAY + 1)
        assert titles(before) == ["Blue mug", "Tea cup [small]"]
        assert titles(after) == ["Blue mug", "Tea cup [small]", "Sofa"]

    def test_the_most_recent_events_are_kept(self, dataset):
        (anna,) = load(dataset, "anna", max_length=2)
        assert titles(anna) == ["Tea cup [small]", "Sofa"]

    def test_both_splits_are_searched_and_the_order_is_that_asked_for(self, dataset):
        found = load(dataset, "dave", "bert", "anna")
        assert [h.user_id for h in found] == ["dave", "bert", "anna"]

    def test_a_user_with_nothing_before_the_moment_has_an_empty_history(self, dataset):
        (cora,) = load(dataset, "cora")
        assert cora.events == ()

    def test_compressed_records_are_read(self, dataset, tmp_path):
        packed = write_dataset(tmp_path / "packed", compression="GZIP")
        assert load(packed, "anna", "dave") == load(dataset, "anna", "dave")

    def test_the_type_of_each_event_is_read_where_there_are_types(self, tmp_path):
        (anna,) = load(write_dataset(tmp_path, actions=("buy", "click")), "anna")
        assert [event.action for event in anna.events] == ["", "buy", "click"]

    def test_random_users_have_a_history_and_depend_on_the_seed_alone(self, dataset):
        draws = {
            seed: frozenset(h.user_id for h in load(dataset, random=2, seed=seed))
            for seed in range(20)
        }
        assert all(len(draw) == 2 and "cora" not in draw for draw in draws.values())
        assert len(set(draws.values())) == 3  # every pair of anna, bert and dave comes up
        assert frozenset(h.user_id for h in load(dataset, random=2, seed=7)) == draws[7]

    def test_too_many_random_users_are_refused(self, dataset):
        with pytest.raises(HistoryError, match="4 random users asked for, but 3 have events"):
            load(dataset, random=4)

    def test_an_unknown_user_is_refused_with_some_that_exist(self, dataset):
        with pytest.raises(HistoryError, match=r"No user 'zoe'.*some that it has: 'anna', 'bert'"):
            load(dataset, "anna", "zoe")

    def test_a_folder_without_schema_is_unfinished(self, tmp_path):
        with pytest.raises(schema.SchemaError, match="not a finished data set"):
            load(tmp_path, "anna")

    @pytest.mark.parametrize("missing", ["items.parquet", "train", "both"])
    def test_a_folder_without_a_part_is_unfinished(self, dataset, tmp_path, missing):
        folder = shutil.copytree(dataset, tmp_path / "copy")
        if missing == "items.parquet":
            (folder / missing).unlink()
        else:
            shutil.rmtree(folder / "train")
            if missing == "both":
                shutil.rmtree(folder / "validation")
        expected = "No user 'anna'" if missing == "train" else "not a finished data set"
        with pytest.raises(HistoryError, match=expected):
            load(folder, "anna")

    def test_a_truncated_record_file_is_named(self, dataset, tmp_path):
        folder = shutil.copytree(dataset, tmp_path / "copy")
        file = folder / "train/part-00001-of-00002.tfrecord"
        file.write_bytes(file.read_bytes()[:-5])
        with pytest.raises(HistoryError, match=r"part-00001-of-00002\.tfrecord is damaged"):
            load(folder, "cora")

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("1320883200", 1_320_883_200),
            ("2011-11-10", 1_320_883_200),
            ("2011-11-10T01:00:00+01:00", 1_320_883_200),
            ("2011-11-10 00:00:01Z", 1_320_883_201),
        ],
    )
    def test_times_are_seconds_or_iso_text_in_utc(self, text, seconds):
        assert histories.parse_time(text) == seconds

    def test_other_times_are_refused(self):
        with pytest.raises(ValueError, match="tomorrow"):
            histories.parse_time("tomorrow")


class TestRecommend:
    def test_inputs_are_padded_at_the_end_with_empty_ids(self, dataset):
        inputs = client.recommend_inputs(load(dataset, "anna", "bert"), k=3, exclude_seen=True)

        assert inputs["item_id"].tolist() == [["mug", "cup", "sofa"], ["lamp", "", ""]]
        assert inputs["category_id"].tolist()[1] == ["home", "", ""]
        assert inputs["title"].tolist()[1] == ["Lampe à pied", "", ""]
        assert inputs["action"].tolist() == [["", "", ""], ["", "", ""]]
        assert inputs["timestamp"].tolist() == [[DAY, 2 * DAY, 99 * DAY], [5 * DAY, 0, 0]]
        assert inputs["as_of"].tolist() == [AS_OF, AS_OF]
        dtypes = {name: inputs[name].dtype for name in ("timestamp", "as_of", "k", "exclude_seen")}
        assert dtypes == {
            "timestamp": np.int64,
            "as_of": np.int64,
            "k": np.int32,
            "exclude_seen": np.bool_,
        }
        assert inputs["k"].shape == inputs["exclude_seen"].shape == ()

    def test_an_empty_history_is_one_padded_event(self, dataset):
        inputs = client.recommend_inputs(load(dataset, "cora"), k=1, exclude_seen=False)
        assert inputs["item_id"].tolist() == [[""]]

    def test_the_type_of_each_event_is_sent_with_it(self):
        events = (Event(Item("mug"), DAY, "click"), Event(Item("mug"), 2 * DAY))
        inputs = client.recommend_inputs([History("a", AS_OF, events)], k=1, exclude_seen=False)
        assert inputs["action"].tolist() == [["click", ""]]

    def test_a_signature_says_what_it_takes(self, channel):
        inputs = client.signature_inputs(channel, "retrieval", "nearest_items", version=2)
        assert inputs == {"item_embedding", "k"}
        assert client.signature_inputs(channel, "retrieval", "no such") == set()

    def test_answers_of_the_server(self, dataset, channel):
        """anna: kitchen first (interest 0: 20 - place/2), home last (interest 1: 10 - place/2)."""
        anna, bert = client.recommend(channel, load(dataset, "anna", "bert"), k=4)

        assert anna == [
            Recommendation("mug", 20.0, 0),
            Recommendation("cup", 19.5, 0),
            Recommendation("pan", 19.0, 0),
            Recommendation("sofa", 8.5, 1),
        ]
        assert [r.item_id for r in bert] == ["sofa", "lamp", "desk", "mug"]

    def test_seen_items_stay_away_on_request(self, dataset, channel):
        (anna,) = client.recommend(channel, load(dataset, "anna"), k=3, exclude_seen=True)
        assert [r.item_id for r in anna] == ["pan", "lamp", "desk"]

    def test_predict_takes_a_version_and_raises_the_servers_status(self, channel):
        inputs = {"item_id": ["mug"]}
        outputs = client.predict(channel, "item_encoder", "encode_items", inputs, version=3)
        np.testing.assert_allclose(
            outputs["item_embedding"], [[3 / np.sqrt(10), 1 / np.sqrt(10)]], rtol=1e-6
        )
        with pytest.raises(grpc.RpcError) as error:
            client.predict(channel, "item_encoder", "encode_items", inputs, version=4)
        assert error.value.code() == grpc.StatusCode.NOT_FOUND


class TestShow:
    ANSWER = (
        Recommendation("pan", 2, 3),
        Recommendation("lamp", 1.5, 0),
        Recommendation("x", 1, 3),
    )

    def test_groups_follow_the_best_item_of_each(self):
        groups = display.group_by_interest(self.ANSWER)
        ids = [(interest, [(rank, r.item_id) for rank, r in rows]) for interest, rows in groups]
        assert ids == [(3, [(1, "pan"), (3, "x")]), (0, [(2, "lamp")])]

    def test_what_a_person_reads(self):
        events = tuple(Event(Item("cup", "", "Tea cup [small]"), day * DAY) for day in range(10))
        items = {"pan": Item("pan", "", "Frying pan"), "lamp": Item("lamp", "", "Lamp")}
        console = Console(file=io.StringIO(), width=100)

        display.show(console, History("anna [1]", AS_OF, events), self.ANSWER, items)

        lines = [line.split() for line in console.file.getvalue().splitlines()]
        text = [" ".join(line) for line in lines]
        assert "user anna [1]" in text[0]
        assert text[1] == "last 8 of 10 events before 1970-04-11 00:00"
        assert text[3] == "1970-01-10 00:00 cup Tea cup [small]"  # the latest comes first
        assert text[11:] == [
            "recommended",
            "interest rank item title score",
            "interest 3 1 pan Frying pan 2.000",
            "3 x (not in this data set) 1.000",
            "interest 0 2 lamp Lamp 1.500",
        ]

    def test_actions_are_shown_where_there_are_some(self):
        events = (Event(Item("cup", "", "Tea cup"), DAY, "click"), Event(Item("mug"), 2 * DAY))
        console = Console(file=io.StringIO(), width=100)
        display.show(console, History("anna", AS_OF, events), (), {})
        lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
        assert lines[2:5] == ["date action item title", "1970-01-03 00:00 mug", lines[4]]
        assert lines[4] == "1970-01-02 00:00 click cup Tea cup"


class TestMain:
    def test_it_prints_purchases_and_recommendations(self, dataset, handle, capsys):
        code = client.main(
            ["--dataset", str(dataset), "--user", "anna", "--server", handle.address, "--k", "4"]
        )

        output = capsys.readouterr().out
        assert code == 0
        assert "user anna" in output
        assert output.index("1970-04-10 00:00  sofa") < output.index("1970-01-02 00:00  mug")
        assert "interest 0" in output
        assert "interest 1" in output

    def test_json_has_one_line_a_user(self, dataset, handle, capsys):
        arguments = ["--dataset", str(dataset), "--server", handle.address, "--json", "--k", "2"]
        client.main([*arguments, "--user", "bert", "cora", "--user", "dave", "--exclude-seen"])

        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(line["user_id"], line["events"]) for line in lines] == [
            ("bert", 1),
            ("cora", 0),
            ("dave", 2),
        ]
        assert lines[0] == {
            "user_id": "bert",
            "as_of": AS_OF,
            "events": 1,
            "recommendations": [
                {"rank": 1, "item_id": "sofa", "title": "Sofa", "score": 18.5, "interest": 0},
                {"rank": 2, "item_id": "desk", "title": "", "score": 17.5, "interest": 0},
            ],
        }

    def test_as_of_is_passed_on(self, dataset, handle, capsys):
        arguments = ["--dataset", str(dataset), "--server", handle.address, "--json", "--k", "1"]
        client.main([*arguments, "--user", "anna", "--as-of", "1970-01-03"])

        line = json.loads(capsys.readouterr().out)
        assert (line["as_of"], line["events"]) == (2 * DAY, 1)

    def test_random_users_need_no_ids(self, dataset, handle, capsys):
        arguments = ["--dataset", str(dataset), "--server", handle.address, "--json", "--k", "1"]
        client.main([*arguments, "--random", "3"])

        users = {json.loads(line)["user_id"] for line in capsys.readouterr().out.splitlines()}
        assert users == {"anna", "bert", "dave"}

    def test_a_server_that_is_not_there(self, dataset, capsys):
        arguments = ["--dataset", str(dataset), "--user", "anna"]
        assert client.main([*arguments, "--server", "127.0.0.1:1"]) == 1
        message = capsys.readouterr().err
        assert "no server answers at 127.0.0.1:1" in message
        assert "`guim serve`" in message

    def test_what_the_server_refuses_is_said(self, dataset, handle, capsys):
        arguments = ["--dataset", str(dataset), "--server", handle.address, "--user", "anna"]
        assert client.main([*arguments, "--k", "100"]) == 1  # the test's model has six items
        assert "answers INVALID_ARGUMENT: input must have at least" in capsys.readouterr().err

    def test_another_model_can_be_asked(self, dataset, handle, capsys):
        arguments = ["--dataset", str(dataset), "--server", handle.address, "--user", "anna"]
        assert client.main([*arguments, "--model", "retrieval_exact"]) == 1
        assert "Servable not found for request: Latest(retrieval_exact)" in capsys.readouterr().err

    def test_an_unknown_user(self, dataset, capsys):
        assert client.main(["--dataset", str(dataset), "--user", "zoe"]) == 2
        assert "guim recommend: No user 'zoe'" in capsys.readouterr().err

    def test_an_unfinished_data_set(self, tmp_path, capsys):
        assert client.main(["--dataset", str(tmp_path), "--user", "anna"]) == 2
        assert "not a finished data set" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "say which users"),
            (["--user", "a", "--k", "0"], "--k and --max-length must be 1 or more"),
            (["--user", "a", "--as-of", "tomorrow"], "argument --as-of: invalid"),
        ],
    )
    def test_impossible_arguments(self, capsys, arguments, message):
        with pytest.raises(SystemExit):
            client.main(["--dataset", "d", *arguments])
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("code", "part"),
        [
            (grpc.StatusCode.DEADLINE_EXCEEDED, "--timeout"),
            (grpc.StatusCode.NOT_FOUND, "`guim index`"),
            (grpc.StatusCode.INTERNAL, "answers INTERNAL: why"),
        ],
    )
    def test_every_status_is_explained(self, code, part):
        class Error(grpc.RpcError):
            def code(self):
                return code

            def details(self):
                return "why"

        assert part in client.explain(Error(), server="h:1")
