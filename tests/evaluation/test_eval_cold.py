"""Cold items: an exported model places items that no training saw by their category and title."""

import types

import numpy as np
import pytest

from guim_tf.encoders import encode_items, load_encoder
from guim_tf.evaluation import metrics
from guim_tf.evaluation.protocol import load_protocol
from guim_tf.evaluation.tasks import truths
from guim_tf.evaluation.vectors import Vectors, encode, rank_vectors
from guim_tf.export import export

K = 20


@pytest.fixture(scope="module")
def world(shop_dataset, shop_run, tmp_path_factory):
    models = tmp_path_factory.mktemp("cold") / "models"
    export(run=shop_run, models=models)
    protocol = load_protocol(shop_dataset)
    return models, protocol, encode(models, protocol, progress=False)


def recall(protocol, users, items):
    """Mean recall@K with these items as the only candidates, all of them the truth's rows."""
    ranked, _ = rank_vectors(Vectors(users, items, ()), k=K)
    return metrics.mean(metrics.recall_at_k(ranked, truths(protocol)["CMP-L"], K)).mean


def renamed(protocol, **changed):
    """The catalogue as a new shop would have it: ids that no training saw, and other changes."""
    known = protocol.catalogue
    texts = {
        "item_id": np.array([f"never seen {x}" for x in known.item_id], object),
        "category_id": known.category_id,
        "title": known.title,
    } | changed

    class Renamed(types.SimpleNamespace):
        def __len__(self):
            return len(self.item_id)

    return Renamed(**texts)


def test_items_are_found_by_category_and_title_alone(world):
    models, protocol, vectors = world
    _, model = load_encoder(models, "item_encoder", schema=protocol.schema)
    users = vectors.user_embedding

    def recall_of(catalogue):
        return recall(protocol, users, encode_items(model, catalogue, progress=False))

    known, other = protocol.catalogue, np.random.default_rng(0).permutation(len(protocol.catalogue))
    by_text = recall_of(renamed(protocol))
    by_wrong_text = recall_of(
        renamed(protocol, category_id=known.category_id[other], title=known.title[other])
    )
    by_chance = K / len(known)
    assert by_text > 1.4 * by_chance
    assert by_text > 1.4 * by_wrong_text
    # An item with no text at all is what the model makes of its id, and that is one for all.
    blank = np.full(len(known), "", object)
    alike = encode_items(model, renamed(protocol, category_id=blank, title=blank), progress=False)
    np.testing.assert_allclose(alike, np.broadcast_to(alike[0], alike.shape), atol=1e-6)
