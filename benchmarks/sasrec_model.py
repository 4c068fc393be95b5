"""RecTools' SASRec, trained on a table of events and read out as vectors.

Needs RecTools and torch; `sasrec_rectools.py` says how to get them and is the command.
"""

import copy
import logging
import math
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from rectools.models.nn.transformers.utils import leave_one_out_mask
from sasrec_files import BaselineError, Fitted, Settings
from tqdm import tqdm

RECALL = "recall@10"
_TOP = 10


class SoftmaxOnEvents(TransformerLightningModule):
    """RecTools' training with the softmax loss, without the scores that its mean leaves out.

    The library scores all items at each padded position, and of a validation user at each one but
    the last, only to drop them: on short histories that is most of the time. The loss is the same.
    """

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        items = self.torch_model.item_model.get_all_embeddings()
        users = self.torch_model.encode_sessions(batch, items)
        real = batch["y"] != 0
        scores = self.torch_model.similarity_module(users[real] / self.logits_t, items)
        loss = torch.nn.functional.cross_entropy(scores, batch["y"][real])
        self.log(self.train_loss_name, loss, on_step=False, on_epoch=True, batch_size=len(users))
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        users = self.torch_model.encode_sessions(batch, self.item_embs)[:, -1]
        scores = self.torch_model.similarity_module(users, self.item_embs)
        better = scores[:, 1:] > scores.gather(1, batch["y"])  # column 0 is padding
        found = (better.sum(1) < _TOP).float().mean()
        self.log(RECALL, found, on_step=False, on_epoch=True, batch_size=len(users))


class BestEpoch(lightning.Callback):
    """Keeps the weights of the epoch with the best recall; stops when it no longer rises.

    And where the next epoch, as long as the last, would end after `minutes` from now.
    """

    def __init__(self, patience: int, minutes: float) -> None:
        self.patience = patience
        self.end = time.monotonic() + 60 * minutes
        self.epoch_start = time.monotonic()
        self.epochs, self.best, self.recall = 0, 0, -1.0
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: SoftmaxOnEvents) -> None:
        if RECALL not in trainer.callback_metrics:
            raise BaselineError(
                "No event that was held out is of an item and a user that were trained on. "
                "Raise --validation-users, or bring more events."
            )
        loss, recall = (float(trainer.callback_metrics[x]) for x in ("train_loss", RECALL))
        self.epochs += 1
        if not math.isfinite(loss):
            raise BaselineError(
                f"The loss is {loss} in epoch {self.epochs}. Lower --learning-rate."
            )
        if recall > self.recall:
            self.best, self.recall = self.epochs, recall
            self.weights = copy.deepcopy(module.torch_model.state_dict())
        tqdm.write(
            f"epoch {self.epochs}: loss {loss:.4f}, {RECALL} {recall:.4f}, "
            f"best {self.recall:.4f} in epoch {self.best}",
            file=sys.stderr,
        )
        now = time.monotonic()
        late = now + (now - self.epoch_start) > self.end
        self.epoch_start = now
        trainer.should_stop = late or self.epochs - self.best >= self.patience


class Progress(lightning.Callback):
    """A bar of steps on stderr, where that is a terminal."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: SoftmaxOnEvents) -> None:
        total = trainer.num_training_batches * (trainer.max_epochs or 0)
        self.bar = tqdm(total=total, unit="step", disable=None, leave=False)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        assert self.bar is not None
        self.bar.update()

    def on_train_end(self, trainer: lightning.Trainer, module: SoftmaxOnEvents) -> None:
        assert self.bar is not None
        self.bar.close()


def interactions(events: pa.Table) -> Dataset:
    """RecTools' form of events; the library sorts by time and leaves equal times as they are."""
    return Dataset.construct(
        pd.DataFrame(
            {
                Columns.User: events["user_id"].to_numpy(),
                Columns.Item: events["item_id"].to_numpy(),
                Columns.Weight: 1.0,
                Columns.Datetime: pd.to_datetime(events["timestamp"].to_numpy(), unit="s"),
            }
        )
    )


def make_model(settings: Settings, *, users: int) -> SASRecModel:
    """An untrained model; `users` is how many there are."""
    model = SASRecModel(
        n_factors=settings.factors,
        session_max_len=settings.max_length,
        batch_size=settings.batch_size,
        lr=settings.learning_rate,
        loss="softmax",
        lightning_module_type=SoftmaxOnEvents,
        get_val_mask_func=leave_one_out_mask,
        get_val_mask_func_kwargs={"val_users": min(settings.validation_users, users)},
    )
    model._trainer = lightning.Trainer(  # the place that RecTools documents for one's own
        max_epochs=settings.epochs,
        callbacks=[BestEpoch(settings.patience, settings.minutes), Progress()],
        deterministic=True,
        devices=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    return model


def fit(events: pa.Table, history: pa.Table, settings: Settings) -> Fitted:
    """Trains on `events`, and encodes each user from his events in `history`.

    Raises:
      BaselineError: training diverged, or nobody has enough events to learn from.
    """
    if max(np.unique(events["user_id"].to_numpy(), return_counts=True)[1]) < 3:
        raise BaselineError(
            "No user has three events, two to learn from and one to hold out. Bring more events."
        )
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|rectools|pydantic")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_flush_denormal(True)  # probabilities near 0 slow the softmax gradient several times
    lightning.seed_everything(settings.seed, verbose=False)
    dataset = interactions(events)
    model = make_model(settings, users=dataset.user_id_map.size)
    model.fit(dataset)
    [best] = [x for x in model.fit_trainer.callbacks if isinstance(x, BestEpoch)]
    model.torch_model.load_state_dict(best.weights)
    user_ids, user_vectors, item_ids, item_vectors = vectors(model, interactions(history))
    return Fitted(
        user_ids, user_vectors, item_ids, item_vectors, best.epochs, best.best, best.recall
    )


def vectors(
    model: SASRecModel, history: Dataset
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """User ids `[n]`, their vectors `[n, d]`, item ids `[m]`, their vectors `[m, d]`.

    A user is the state after his last event. Users none of whose items were trained have none.
    """
    prepare, torch_model = model.data_preparator, model.torch_model.eval()
    known = prepare.transform_dataset_u2i(history, history.user_id_map.external_ids)
    with torch.no_grad():
        items = torch_model.item_model.get_all_embeddings()
        users = [
            torch_model.encode_sessions(batch, items)[:, -1]
            for batch in prepare.get_dataloader_recommend(known, model.recommend_batch_size)
        ]
    return (
        known.user_id_map.external_ids,
        torch.cat(users).numpy(),
        prepare.get_known_item_ids(),
        items[prepare.n_item_extra_tokens :].numpy(),
    )
