"""The life of versions: loaded beside the served one, taking over, refused, retired."""

import gc
import json
import os
import re
import shutil

import grpc
import pytest
import tensorflow as tf
from serving_testing import Retrieval, make_schema, save

from serving import servable as servable_lib
from serving import versions
from serving.manager import AVAILABLE, END, START, UNLOADING, ServableManager
from serving.model_config import All, Latest, ModelConfig, Specific


@pytest.fixture
def base(tmp_path):
    return tmp_path / "item_encoder"


@pytest.fixture
def copy(models, base):
    """Copies a good version there under a number."""

    def make(version):
        return shutil.copytree(models / "item_encoder/3", base / str(version))

    return make


LATEST = Latest()


def manage(base, *, policy=LATEST, labels=None, settle_seconds=0.0):
    manager = ServableManager(settle_seconds=settle_seconds)
    manager.configure([ModelConfig("e", base, policy, labels or {})])
    return manager


def states(manager):
    return {s.version: s.state for s in manager.states("e")}


class TestTakingOver:
    def test_a_new_version_takes_over_and_the_old_one_ends(self, base, copy):
        copy(1)
        manager = manage(base)
        assert (manager.get("e").version, states(manager)) == (1, {1: AVAILABLE})

        copy(2)
        manager.update()

        assert manager.get("e").version == 2
        assert states(manager) == {1: END, 2: AVAILABLE}
        assert manager.states("e")[0].code == 0
        with pytest.raises(servable_lib.RequestError, match=r"Specific\(e, 1\)"):
            manager.get("e", 1)

    def test_the_old_one_stays_while_a_request_runs_on_it(self, base, copy):
        copy(1)
        manager = manage(base)
        used = manager.get("e")
        copy(2)
        manager.update()
        assert states(manager) == {1: UNLOADING, 2: AVAILABLE}
        assert used.functions["encode_items"](item_id=tf.constant(["ab"]))

        del used
        gc.collect()
        assert states(manager) == {1: END, 2: AVAILABLE}

    def test_a_lower_version_takes_over_when_the_higher_ones_are_taken_away(self, base, copy):
        copy(1)
        copy(2)
        manager = manage(base)
        shutil.rmtree(base / "2")
        manager.update()

        assert manager.get("e").version == 1

    def test_policies(self, base, copy):
        for version in (1, 2, 3):
            copy(version)
        assert states(manage(base, policy=All())) == dict.fromkeys((1, 2, 3), AVAILABLE)
        assert states(manage(base, policy=Latest(2))) == dict.fromkeys((2, 3), AVAILABLE)
        manager = manage(base, policy=Specific((1,)))
        assert states(manager) == {1: AVAILABLE}
        copy(4)
        manager.update()
        assert states(manager) == {1: AVAILABLE}

    def test_labels_name_versions(self, base, copy):
        copy(1)
        copy(2)
        manager = manage(base, policy=All(), labels={"stable": 1})

        assert manager.get("e", label="stable").version == 1
        with pytest.raises(servable_lib.RequestError, match="version label: canary") as error:
            manager.get("e", label="canary")
        assert error.value.code == grpc.StatusCode.INVALID_ARGUMENT

    def test_a_label_stays_until_its_new_version_is_available(self, base, copy):
        copy(1)
        manager = manage(base, policy=All(), labels={"stable": 1})
        missing = manager.configure([ModelConfig("e", base, All(), {"stable": 2})])
        assert missing == ["e label stable"]
        assert manager.get("e", label="stable").version == 1

        copy(2)
        assert manager.update() == []
        assert manager.get("e", label="stable").version == 2


class TestRefusals:
    def test_a_broken_version_ends_with_a_reason_and_the_old_one_serves_on(
        self, base, copy, caplog
    ):
        copy(1)
        manager = manage(base)
        (copy(2) / "saved_model.pb").write_bytes(b"\xff\xff not a graph")
        manager.update()

        assert manager.get("e").version == 1
        broken = manager.states("e")[1]
        assert (broken.state, broken.code) == (END, tf.errors.FAILED_PRECONDITION)
        assert "saved_model.pb is damaged" in broken.details
        assert "e version 2 can't be served" in caplog.text

    def test_a_start_with_a_broken_version_serves_the_one_below(self, base, copy):
        copy(1)
        (copy(2) / "saved_model.pb").write_bytes(b"")
        manager = manage(base)

        assert states(manager) == {1: AVAILABLE, 2: END}

    def test_it_is_not_tried_again_until_it_changes(self, base, copy, caplog):
        copy(1)
        manager = manage(base)
        graph = copy(2) / "saved_model.pb"
        good = graph.read_bytes()
        graph.write_bytes(b"")
        for _ in range(3):
            manager.update()
        assert caplog.text.count("can't be served") == 1

        graph.write_bytes(good)
        manager.update()
        assert manager.get("e").version == 2

    def test_missing_variables_end_with_tensorflows_code(self, base, copy):
        shutil.rmtree(copy(1) / "variables")
        (state,) = manage(base).states("e")

        assert (state.state, state.code) == (END, tf.errors.NOT_FOUND)

    def test_a_version_that_answers_otherwise_does_not_take_over(self, base, copy):
        copy(1)
        manager = manage(base)
        save(base / "2", Retrieval(), default="recommend", names=("recommend", "nearest_items"))
        manager.update()

        assert manager.get("e").version == 1
        refused = manager.states("e")[1]
        assert (refused.state, refused.code) == (END, tf.errors.FAILED_PRECONDITION)
        assert "does not answer as version 1" in refused.details
        assert "signature encode_items is gone" in refused.details

    def test_a_version_with_an_edited_schema_is_refused(self, base, copy):
        copy(1)
        manager = manage(base)
        extra = copy(2) / "assets.extra"
        extra.mkdir(exist_ok=True)
        text = make_schema().to_json().replace('"max_title_tokens": 12', '"max_title_tokens": 13')
        (extra / "schema.json").write_text(text)
        manager.update()

        assert manager.get("e").version == 1
        assert "was edited" in manager.states("e")[1].details

    def test_nor_does_it_after_a_restart(self, base, copy):
        copy(1)
        save(base / "2", Retrieval(), default="recommend", names=("recommend", "nearest_items"))

        assert states(manage(base)) == {1: AVAILABLE, 2: END}

    def test_taking_the_version_before_it_away_lets_it_serve(self, base, copy):
        copy(1)
        save(base / "2", Retrieval(), default="recommend", names=("recommend", "nearest_items"))
        manager = manage(base)
        shutil.rmtree(base / "1")
        save(base / "3", Retrieval(), default="recommend", names=("recommend", "nearest_items"))
        manager.update()
        assert manager.get("e").version == 3

    def test_whoever_names_a_version_gets_it(self, base, copy):
        """The check is for takeovers that nobody asked for."""
        copy(1)
        save(base / "2", Retrieval(), default="recommend", names=("recommend", "nearest_items"))

        assert states(manage(base, policy=All())) == {1: AVAILABLE, 2: AVAILABLE}

    @pytest.mark.parametrize(
        ("name", "version", "wanted"),
        [("x", None, "Latest(x)"), ("x", 1, "Specific(x, 1)"), ("e", 4, "Specific(e, 4)")],
    )
    def test_what_is_not_there_is_not_found(self, base, copy, name, version, wanted):
        copy(3)
        with pytest.raises(servable_lib.RequestError) as error:
            manage(base).get(name, version)

        assert error.value.code == grpc.StatusCode.NOT_FOUND
        assert error.value.details == f"Servable not found for request: {wanted}"


class TestContract:
    """`what_breaks`, on real signatures."""

    @pytest.fixture(scope="class")
    def encoder(self, models):
        return servable_lib.load(name="e", version=3, path=models / "item_encoder/3")

    def changed(self, encoder, change):
        defs = {}
        for name, definition in encoder.signature_defs.items():
            defs[name] = type(definition)()
            defs[name].CopyFrom(definition)
        change(defs)
        return defs

    def test_the_same_signatures_break_nothing(self, encoder):
        same = self.changed(encoder, lambda defs: None)
        assert servable_lib.what_breaks(encoder.signature_defs, same) is None

    def test_more_signatures_and_outputs_break_nothing(self, encoder):
        def change(defs):
            defs["more"] = defs["encode_items"]
            outputs = defs["encode_items"].outputs
            outputs["more"].CopyFrom(outputs["item_embedding"])

        more = self.changed(encoder, change)
        assert servable_lib.what_breaks(encoder.signature_defs, more) is None

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda d: d["encode_items"].inputs["x"].CopyFrom(d["refuse"].inputs["x"]), "for more"),
            (lambda d: d["encode_items"].inputs.pop("item_id"), "inputs .* lack item_id"),
            (lambda d: d["encode_items"].outputs.pop("item_embedding"), "outputs .* lack item_em"),
            (
                lambda d: setattr(
                    d["encode_items"].outputs["item_embedding"].tensor_shape.dim[1], "size", 3
                ),
                r"was DT_FLOAT \[\?,2\] and is DT_FLOAT \[\?,3\]",
            ),
            (lambda d: setattr(d["encode_items"].inputs["item_id"], "dtype", 1), "was DT_STRING"),
        ],
    )
    def test_what_clients_would_notice(self, encoder, change, reason):
        changed = self.changed(encoder, change)
        assert re.search(reason, servable_lib.what_breaks(encoder.signature_defs, changed))


class TestHalfCopies:
    def write_manifest(self, path):
        files = {name: size for name, size, _ in versions.list_files(path) if size >= 0}
        (path / "assets.extra").mkdir(exist_ok=True)
        (path / "assets.extra/manifest.json").write_text(json.dumps({"files": files}))

    @pytest.mark.parametrize("cut", ["absent", "short"])
    def test_a_version_without_all_files_of_its_manifest_waits(self, base, copy, cut):
        path = copy(1)
        self.write_manifest(path)
        (file,) = path.glob("variables/variables.data*")
        whole = file.read_bytes()
        file.unlink() if cut == "absent" else file.write_bytes(whole[:-1])
        manager = manage(base)

        (state,) = manager.states("e")
        assert (state.state, state.servable) == (START, None)
        assert str(file) in state.details
        assert manager.unsettled()

        file.write_bytes(whole)
        manager.update()
        assert states(manager) == {1: AVAILABLE}

    @pytest.mark.parametrize("text", ['{"files": {"a', '{"files": ["a"]}', "[]", "3"])
    def test_half_a_manifest_waits(self, base, copy, text):
        path = copy(1)
        self.write_manifest(path)
        (path / "assets.extra/manifest.json").write_text(text)
        assert states(manage(base)) == {1: START}

    def test_where_one_version_lists_its_files_all_must(self, base, copy):
        """The list of a copy that is under way may not be there yet."""
        self.write_manifest(copy(1))
        manager = manage(base)
        path = copy(2)
        manager.update()
        assert states(manager) == {1: AVAILABLE, 2: START}

        self.write_manifest(path)
        manager.update()
        assert manager.get("e").version == 2

    def test_without_a_manifest_a_version_waits_until_it_is_left_alone(self, base, copy):
        path = copy(1)
        manager = manage(base, settle_seconds=3600)
        assert states(manager) == {1: START}
        assert "still being written" in manager.states("e")[0].details
        os.utime(path / "saved_model.pb", (0, 0))  # a date can be copied along; it does not count
        manager.update()
        assert states(manager) == {1: START}

        manager._settle_seconds = 0.0
        manager.update()
        assert states(manager) == {1: AVAILABLE}

    def test_hidden_folders_are_no_versions(self, base, copy):
        path = copy(1)
        path.rename(base / ".1.unfinished")
        assert states(manage(base)) == {}

    def test_versions_are_folders_with_a_number_in_numeric_order(self, tmp_path):
        for name in ("2", "10", "1", "007", "x", "-3", "1.5", ".tmp-4", "٣", str(1 << 63)):
            (tmp_path / name).mkdir()
        (tmp_path / "5").write_text("a file")

        assert versions.find_versions(tmp_path) == (1, 2, 10)
        assert versions.find_versions(tmp_path / "absent") == ()


class TestAway:
    def test_a_disk_that_is_away_takes_no_model_with_it(self, base, copy, caplog):
        copy(1)
        manager = manage(base)
        base.rename(base.with_name("away"))
        for _ in range(3):
            manager.update()
        assert manager.get("e").version == 1
        assert caplog.text.count("No versions of servable e found") == 1

    def test_a_model_whose_versions_are_removed_is_unloaded(self, base, copy):
        copy(1)
        manager = manage(base)
        shutil.rmtree(base / "1")
        manager.update()
        with pytest.raises(servable_lib.RequestError):
            manager.get("e")

    def test_another_configuration_serves_other_models(self, base, copy, models):
        copy(1)
        manager = manage(base)
        manager.configure([ModelConfig("r", models / "retrieval")])

        assert manager.get("r").version == 2
        with pytest.raises(servable_lib.RequestError):
            manager.get("e")

    def test_a_version_that_is_not_there_takes_none_away(self, base, copy):
        copy(1)
        manager = manage(base, policy=Specific((1,)))
        missing = manager.configure([ModelConfig("e", base, Specific((9,)))])

        assert missing == ["e version 9"]
        assert manager.get("e").version == 1

    def test_the_same_version_of_another_folder_takes_over(self, base, copy, tmp_path):
        copy(1)
        manager = manage(base)
        elsewhere = shutil.copytree(base, tmp_path / "elsewhere")
        manager.configure([ModelConfig("e", elsewhere)])

        assert manager.get("e").path == elsewhere / "1"

    def test_one_model_that_fails_stops_no_other(self, base, copy, caplog):
        class Broken(ModelConfig):
            def candidates(self, versions):
                raise ZeroDivisionError

        copy(1)
        manager = ServableManager(settle_seconds=0.0)
        assert manager.configure([Broken("a", base), ModelConfig("b", base)]) == ["a"]
        assert manager.get("b").version == 1
        assert "looking for versions of a failed" in caplog.text

    def test_ended_versions_are_forgotten_when_they_leave_the_disk(self, base, copy):
        copy(1)
        manager = manage(base)
        for version in (2, 3):
            copy(version)
            manager.update()
            shutil.rmtree(base / str(version - 1))
            manager.update()
        assert states(manager) == {3: AVAILABLE}


def test_many_takeovers_leave_no_memory_behind(base, copy):
    """Counts live graphs: a leak of one a takeover would leave them all."""
    copy(1)
    manager = manage(base)
    for version in range(2, 8):
        shutil.copytree(base / str(version - 1), base / str(version))
        manager.update()
        shutil.rmtree(base / str(version - 1))
    alive = [o for o in gc.get_objects() if type(o) is servable_lib.Servable]
    assert [s.version for s in alive if s.path and s.path.parent == base] == [7]
