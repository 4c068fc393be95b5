"""The retrieval benchmark: its vectors, and a small run of the whole."""

import json
import types

import numpy as np
import retrieval


def test_clustered_vectors_stand_about_their_centres():
    items, users = retrieval.vectors(5000, 50, 4, 64, noise_only=False)
    assert (items.shape, users.shape) == ((5000, 64), (50, 4, 64))
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), np.ones(5000), rtol=1e-5)
    cosine = items[:500] @ items.T
    # 1 of 20 clusters; two of one have the cosine 1 / (1 + 0.7^2)
    near = cosine > 0.45
    assert 150 < near.sum(axis=1).mean() < 350
    assert abs(cosine[near & (cosine < 0.99)].mean() - 1 / 1.49) < 0.03
    own = np.einsum("ucd,ued->uce", users, users)
    assert (own[:, ~np.eye(4, dtype=bool)] < 0.5).all(), "interests of one user lie apart"
    same, _ = retrieval.vectors(5000, 50, 4, 64, noise_only=False)
    np.testing.assert_array_equal(same, items)


def test_vectors_without_clusters_stand_anywhere():
    items, users = retrieval.vectors(2000, 10, 2, 64, noise_only=True)
    assert ((items[:100] @ items.T > 0.6).sum(axis=1) == 1).all()
    assert np.abs(users @ items.T).max() < 0.7


def test_a_small_run_prints_one_line(capsys, monkeypatch):
    asked = []

    def in_this_process(small, large, interests, dim):
        asked.append(retrieval.memory(large, np.ones([1, interests, dim], np.float32)))
        return asked[-1]

    write = retrieval.write

    def write_large(folder, embedding, *options):
        if len(embedding) <= retrieval.SMALL:  # for `grown` alone
            return types.SimpleNamespace(folder="")
        return write(folder, embedding, *options)

    monkeypatch.setattr(retrieval, "write", write_large)
    monkeypatch.setattr(retrieval, "BATCHES", (1, 8))
    monkeypatch.setattr(retrieval, "grown", in_this_process)  # other processes take a while
    retrieval.main(["--items", "3000", "--dim", "32", "--users", "24", "--interests", "3"])
    [line] = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["recall_at_100"] > 0.95
    assert found["index"]["recall"] >= retrieval.MIN_RECALL
    assert (found["items"], found["dimension"], found["interests"]) == (3000, 32, 3)
    assert found["speedup_over_exact"] > 0
    assert set(found["ms_per_user"]) == {"exact", "scann"}
    ratios = found["exact_over_vectors_bytes"], found["index_over_vectors_bytes"]
    sizes = [size["VmRSS"] / (3000 * 32 * 4) for size in asked]
    np.testing.assert_allclose(ratios, sizes, atol=1e-3)
    assert all(size["VmHWM"] >= size["VmRSS"] > 3000 * 32 * 4 for size in asked)
    assert found["build_s"] > 0
