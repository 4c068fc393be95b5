"""`guim train`: from a data set folder to a run folder, by `model.fit`; resumed after any stop."""

import argparse
import dataclasses
import json
import pathlib
import sys
import zlib
from typing import Any

from guim_tf.checkpoints import RunState, SteppedRunState
from guim_tf.cluster import Cluster, ClusterError, serves
from guim_tf.config import (
    CHOSEN_WEIGHTS,
    MODES,
    Config,
    RetrievalConfig,
    configure,
    load_over,
)
from guim_tf.data import training_cutoff
from guim_tf.fitting import Fit, measure
from guim_tf.interrupt import Interruptible, Terminated
from guim_tf.keras_compat import keras
from guim_tf.optimizers import build_optimizer
from guim_tf.runs import (
    CONFIG_FILE,
    RESULT_FILE,
    build_model,
    load_config,
    load_run,
    prepare_run,
    read_history,
    write_whole,
)
from guim_tf.schema import DatasetError, Schema
from guim_tf.shards import whole_shards
from guim_tf.strict_json import ConfigError, to_json
from guim_tf.validation import UNASKED, Validation
from guim_tf.version import build
from guim_tf.warm_start import require_alike, warm_start


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What came of a run, over all the sessions that it took.

    epochs: epochs trained; best_epoch: the one to export, counted from 1; best: its validation
    recall@100, or None where no validation user has an event on each side of T; minutes: time spent
    in epochs; repeat_weight, popularity_weight: those of the configuration, or the ones chosen
    where it has null; build: the package's that did the last session, None of older runs.
    """

    run: str
    epochs: int
    best_epoch: int
    best: float | None
    users: int
    validation_users: int
    steps: int
    parameters: int
    minutes: float
    seed: int
    repeat_weight: float
    popularity_weight: float
    build: str | None = None


def train(
    *,
    dataset: str | pathlib.Path,
    run: str | pathlib.Path,
    config: Config = Config.tuned(),
    init_from: str | pathlib.Path | None = None,
    restart: bool = False,
    save_minutes: float = 10.0,
    progress: bool = True,
) -> TrainResult:
    """Trains a model, or resumes where an earlier call of the same run was cut off.

    Args:
      dataset: what `guim build-dataset` wrote.
      run: the run folder; made, or resumed when it holds the same configuration.
      config: the whole configuration.
      init_from: another run, whose best weights this one begins with (`warm_start`). Batches then
        shrink where there are fewer users, and without two of them nothing is learned.
      restart: throw away what the run folder holds.
      save_minutes: how often the state is saved inside an epoch; it is at the end of each.
      progress: show a progress bar with the losses.

    Where TF_CONFIG names several processes, each calls this with the same arguments (`cluster`);
    all of them see the data set and the run folder.

    Raises:
      DatasetError, SchemaError: the data set is damaged, or has no user to learn from.
      ConfigError: the run folder belongs to another configuration or data set.
      RunError: the run folder can't be written, or its checkpoint not be read.
      ClusterError: another process of the cluster is gone, or sees another run folder.
      DivergedError: the loss or a weight became NaN or infinite.
    """
    cluster = Cluster.of_this_process()
    if init_from is not None and cluster.asynchronous:
        raise ConfigError(
            "--init-from works with workers in step or one process: with parameter servers tables "
            "may be in pieces. Take the servers out of TF_CONFIG."
        )
    base = None if init_from is None else pathlib.Path(init_from)
    with cluster.together():
        return _train(
            cluster,
            pathlib.Path(dataset),
            pathlib.Path(run),
            config,
            base,
            restart,
            save_minutes,
            progress,
        )


def _train(
    cluster: Cluster,
    dataset: pathlib.Path,
    run: pathlib.Path,
    config: Config,
    base: pathlib.Path | None,
    restart: bool,
    save_minutes: float,
    progress: bool,
) -> TrainResult:
    schema = Schema.load(dataset)
    if base:
        require_alike(config, schema, base)
    if cluster.chief:
        prepare_run(run, dataset, schema, config, init_from=base, restart=restart)
    asked = to_json(config) + schema.to_json() + str(base)
    if not cluster.all_have(zlib.crc32(asked.encode())):
        raise ClusterError(
            "the workers were started with different configurations, data sets or --init-from. "
            "Start all with the same command."
        )
    if not (run / CONFIG_FILE).is_file():
        raise ClusterError(f"{run} is not the folder that the chief has made: all must see it.")
    result_file = run / RESULT_FILE
    if result_file.is_file():
        return TrainResult(**json.loads(result_file.read_text(encoding="utf-8")))

    keras.utils.set_random_seed(config.training.seed)
    with whole_shards(dataset, schema):
        candidates = measure(dataset, schema, config)
    batch_size = config.training.batch_size
    if base:
        batch_size = max(2, min(batch_size, candidates.users))
    elif candidates.users < batch_size:
        raise _too_few(candidates.users, dataset, config)
    steps = candidates.users // batch_size
    with cluster.strategy.scope():
        model = build_model(schema, config, candidates.probability)
        model.compile(
            optimizer=build_optimizer(config.training, total_steps=steps * config.training.epochs)
        )
        model.optimizer.build(model.trainable_variables)
    kept: dict[str, Any] = {
        "steps": steps,
        "patience": config.training.patience,
        "writes": cluster.chief,
    }
    state = (
        RunState(run, model, **kept)
        if cluster.asynchronous
        else SteppedRunState(
            run, model, save_minutes=save_minutes, keep_means=cluster.alone, **kept
        )
    )
    if not state.resume() and base:
        changes = warm_start(model, run, schema, base)
        if cluster.chief:
            for name, change in changes.items():
                print(f"{name}: {change}.", file=sys.stderr)
    if not cluster.all_have(state.done):
        raise ClusterError(
            f"the workers found different states in {run}: it must be one folder that all of "
            "them see. Restart them together."
        )
    if not steps:
        state.keep_untrained()
    validation = Validation(dataset, training_cutoff(schema, config.window), config.window)
    fit = Fit(dataset, schema, config, model, state, validation, cluster, batch_size, progress)
    with whole_shards(dataset, schema), cluster.together():  # what it says comes first
        if isinstance(state, SteppedRunState):
            with Interruptible(before=state.save) as interruptible:
                fit.in_step(interruptible)
        else:
            fit.asynchronously()
    if cluster.chief:
        result = TrainResult(
            run=str(run),
            epochs=int(state.epoch),
            best_epoch=int(state.best_epoch),
            best=float(state.best) if validation.users and steps else None,
            users=candidates.users,
            validation_users=validation.users,
            steps=steps * int(state.epoch),
            parameters=sum(v.shape.num_elements() for v in model.trainable_variables),
            minutes=round(sum(line["seconds"] for line in read_history(run)) / 60, 2),
            seed=config.training.seed,
            **_weights(run, config.retrieval, validation),
            build=build(),
        )
        write_whole(result_file, json.dumps(dataclasses.asdict(result)) + "\n")
    cluster.all_have(0)  # the result is there
    return TrainResult(**json.loads(result_file.read_text(encoding="utf-8")))


def _weights(run: pathlib.Path, asked: RetrievalConfig, validation: Validation) -> dict[str, float]:
    """`CHOSEN_WEIGHTS` by name: as asked, or by the validation users, or as where there is none."""
    weights = {name: getattr(asked, name) for name in CHOSEN_WEIGHTS}
    missing = {name: UNASKED[name] for name, weight in weights.items() if weight is None}
    if missing and validation.users:
        return validation.best_weights(load_run(run)[0], **weights)
    if missing:
        taken = " and ".join(f"retrieval.{name}={weight:g}" for name, weight in missing.items())
        print(
            f"guim train: no validation user buys after the cut-off, so lists are ranked with "
            f"{taken}. Set them, or build the data set with more validation users.",
            file=sys.stderr,
        )
    return weights | missing


def _too_few(users: int, dataset: str | pathlib.Path, config: Config) -> DatasetError:
    return DatasetError(
        f"{users} training users of {dataset} have an event both in the "
        f"{config.window.history_days} days before the cut-off and in the "
        f"{config.window.target_days} days from it; a batch needs "
        f"{config.training.batch_size}. Use a longer log, longer windows or smaller batches."
    )


def main(argv: list[str] | None = None) -> int:
    """The command `guim train`."""
    parser = argparse.ArgumentParser(
        prog="guim train",
        description="Trains GUIM on a data set folder. The same command again resumes a run that "
        "was cut off, at its last checkpoint, and ends as if it had not been. With --init-from it "
        "learns from the last day of the data set alone, starting with what another run knows.",
        epilog="examples:\n"
        "  guim train --dataset work/dataset --run work/run\n"
        "  guim train --dataset work/dataset --run work/c1 --set model.interests=1\n"
        "  guim train --dataset work/dataset --run work/paper --mode paper\n"
        "  guim train --dataset work/dataset --run work/run --config my.json --restart\n"
        "  guim train --dataset work/today --run work/run-2 --init-from work/run\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="folder that build-dataset wrote")
    parser.add_argument("--run", required=True, help="folder of the run: made, or resumed")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--mode",
        choices=list(MODES),
        default="tuned",
        help="named configuration to begin with (default: %(default)s)",
    )
    begin.add_argument(
        "--init-from",
        metavar="RUN",
        help="a finished run whose weights and configuration to begin with; new ids and words "
        "enter its vocabularies, and ids that have vanished leave them",
    )
    parser.add_argument("--config", help="JSON configuration; as in the mode where left out")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change one value of the configuration; may be repeated",
    )
    parser.add_argument("--restart", action="store_true", help="throw away an earlier run")
    parser.add_argument(
        "--save-minutes",
        type=float,
        default=10.0,
        help="how often to save the state inside an epoch (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        if server := serves():
            print("guim train: serving the chief until this process is stopped.", file=sys.stderr)
            server.join()
        config = MODES[arguments.mode]()
        if arguments.init_from:
            config = load_config(arguments.init_from).update()
        if arguments.config:
            config = load_over(config, arguments.config)
        result = train(
            dataset=arguments.dataset,
            run=arguments.run,
            config=configure(config, arguments.set),
            init_from=arguments.init_from,
            restart=arguments.restart,
            save_minutes=arguments.save_minutes,
        )
    except ValueError as e:
        print("guim train: " + " ".join(str(e).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as e:
        print("\nguim train: interrupted. The same command resumes.", file=sys.stderr)
        return e.status if isinstance(e, Terminated) else 130
    print(json.dumps(dataclasses.asdict(result)))
    return 0
