"""Made-up reports: what an evaluation leaves behind, every number known."""

import numpy as np

TASKS = ("CMP-L", "CMP-N")
USERS = {"CMP-L": 40, "CMP-N": 30}
CATALOGUE = {"path": "dataset", "fingerprint": "f00d", "users": 50, "items": 9} | {
    "first_event": "2020-01-01",
    "last_event": "2020-12-31",
}
PROTOCOL = {
    "as_of": "2020-12-01",
    "as_of_timestamp": 1_606_780_800,
    "history_days": 365,
    "test_days": 30,
    "exclude_seen": False,
    "users": 40,
    "candidates": 9,
    "events_before": 700,
    "tasks": {task: {"users": USERS[task], "pairs": 90, "repeated_share": 0.5} for task in TASKS},
}


def method(name: str, kind: str, recall: float, interests: list[float] | None = None) -> dict:
    """A row of a report: CMP-N is half of CMP-L, `new` half of `repeated`, nobody never seen."""

    def mean(value: float | None, users: int) -> dict:
        return {"mean": value, "half_width": None if value is None else 0.01, "users": users}

    return {
        "name": name,
        "kind": kind,
        "definition": f"The definition of {name}.",
        "tasks": {
            "CMP-L": {"recall@100": mean(recall, 40), "ndcg@20": mean(recall / 10, 40)},
            "CMP-N": {"recall@100": mean(recall / 2, 30), "ndcg@20": mean(recall / 20, 30)},
        },
        "slice_metric": "recall@100",
        "slices": {
            task: {
                "purchase": {"new": mean(recall / 2, 20), "repeated": mean(recall, 25)},
                "item popularity": {"head": mean(recall, 40), "never seen": mean(None, 0)},
            }
            for task in TASKS
        },
        "interests": interests
        and {
            "recommended": interests,
            "purchased": interests,
            "pair_cosines": np.eye(len(interests)).tolist(),
            "mean_cosine": None if len(interests) == 1 else 0.25,
            "item_cosine": 0.1,
        },
    }


def report(methods: list[dict], *, labels: bool = True) -> dict:
    """Accuracy on the label `age` is half of the recall on CMP-L."""
    predicted = [
        {
            "name": x["name"],
            "kind": x["kind"],
            "definition": f"A network on {x['name']}.",
            "accuracy": {
                "age": {
                    "mean": x["tasks"]["CMP-L"]["recall@100"]["mean"] / 2,
                    "half_width": 0.02,
                    "users": 5,
                }
            },
        }
        for x in methods
    ]
    counts = {"classes": 3, "users": 10, "unlabelled": 0}
    return {
        "profile": {"users": 10, "folds": 5, "labels": {"age": counts}, "methods": predicted}
        if labels
        else None,
        "dataset": CATALOGUE,
        "protocol": PROTOCOL,
        "methods": methods,
        "notes": [],
        "versions": {"guim_tf": "0"},
    }


BASELINES = report([method("popular", "baseline", 0.25), method("EASE", "baseline", 0.45)])
