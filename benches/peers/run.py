#!/usr/bin/env python3
"""Measure the peer engines, and any command that reports like `measure-recall --json`, on one data set, in turn.

Every index is built once and kept beside the data (`--indexes`), so that a second run only measures. Then all are
measured R times in turn, each time every setting of every index over all queries, one query a call, in one thread; the
command runs in each turn too, so that what else happens on the machine hits all alike.
A setting that another of the same index beats clearly at no less recall is measured once only. Records hold the medians
(fields: records.py) and are written after every turn; `frontier.py` makes tables and plots of them. An engine whose
package is not installed is named and skipped. `compare.sh` does all of this for all data sets, and bigrain.

    benches/peers/setup.sh
    benches/fetch_datasets.py data
    benches/peers/.venv/bin/python benches/peers/run.py data/fashion-mnist --out peers.jsonl \\
        --command 'target/release/measure-recall --index INDEX --queries data/fashion-mnist/queries.npy
                   --truth data/fashion-mnist/truth.npy -k 10 --threads 1 --json'

To try a plan out: `--engine hnswlib --rows 10000 --queries 100 --repetitions 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from engines import ENGINES, EngineMissing, engine_class
from engines.peer import Peer
from engines.plan import FaissPlan, Plan
from engines.store import IndexStore
from measure import Dataset, recall_at, time_queries
from plans import K_FACTOR_RF, NPROBE, PLANS
from records import Record, from_measure_recall, machine, median_record, write

CLEARLY_FASTER = 1.3

Measured = dict[tuple[str, str, str], list[Record]]


class CommandError(Exception):
    """A command that failed or printed no report."""


def main() -> int:
    """Build, measure in turn, write the records."""
    arguments = parse_arguments()
    environment = {"machine": machine(), "load": round(os.getloadavg()[0], 2)}
    measured: Measured = defaultdict(list)
    try:
        dataset = Dataset.open(arguments.dataset, arguments.queries, arguments.rows)
        folder = arguments.indexes or arguments.dataset / "indexes"
        peers = open_all(chosen_plans(arguments, dataset.name), dataset, folder)
        if arguments.build_only:
            return 0
        shared = [index_fields(peer, dataset, arguments.k) for peer in peers]
        for repetition in range(arguments.repetitions):
            say(f"turn {repetition + 1} of {arguments.repetitions}")
            for record in one_turn(list(zip(peers, shared, strict=True)), dataset, measured, arguments):
                measured[record["engine"], record["index"], record["setting"]].append(record)
            write(arguments.out, (median_record(repetitions) | environment for repetitions in measured.values()))
    except (CommandError, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder made by fetch_datasets.py")
    parser.add_argument("--out", type=Path, help="file of records, one JSON object a line")
    parser.add_argument("-k", type=positive, default=10, help="rows a query (default 10)")
    parser.add_argument("--repetitions", type=positive, default=3, metavar="R", help="turns (default 3)")
    parser.add_argument("--queries", type=positive, metavar="N", help="the first N queries only")
    parser.add_argument("--rows", type=positive, metavar="N", help="the first N rows only, to try something out")
    parser.add_argument(
        "--engine",
        action="append",
        choices=[*ENGINES, "none"],
        help="this peer alone, or none of them; may be repeated (default all)",
    )
    parser.add_argument("--index", action="append", metavar="FACTORY", help="these FAISS indexes instead of the plans")
    parser.add_argument("--indexes", type=Path, metavar="FOLDER", help="built indexes (default DATASET/indexes)")
    parser.add_argument("--build-only", action="store_true", help="build what is not there yet, measure nothing")
    parser.add_argument("--command", action="append", default=[], help="a command to measure too; may be repeated")
    parser.add_argument("--command-name", default="bigrain", help="engine named in its records (default bigrain)")
    arguments = parser.parse_args()
    if arguments.out is None and not arguments.build_only:
        parser.error("--out FILE is needed, unless --build-only")
    return arguments


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


def chosen_plans(arguments: argparse.Namespace, dataset: str) -> list[Plan]:
    """The plans of the data set that the command line selects."""
    if arguments.index:
        return [FaissPlan(factory, NPROBE, K_FACTOR_RF) for factory in arguments.index]
    if dataset not in PLANS:
        say(f"no plans for {dataset!r}, only for {', '.join(PLANS)}: add some to plans.py, or give --index")
    return [plan for plan in PLANS.get(dataset, ()) if plan.engine in (arguments.engine or ENGINES)]


def open_all(plans: list[Plan], dataset: Dataset, folder: Path) -> list[Peer]:
    """Load every index, building what is not in `folder`; engines that are not installed are skipped."""
    store = IndexStore(folder, dataset.base, dataset.metric)
    missing: dict[str, EngineMissing] = {}
    peers = []
    for plan in plans:
        try:
            if plan.engine not in missing:
                peer_class, version = engine_class(plan.engine)
                peers.append(peer_class(plan, dataset, store, version))
                say_opened(peers[-1], len(dataset.base))
        except EngineMissing as error:
            missing[plan.engine] = error
            say(f"SKIPPED {plan.engine}: {error}")
    return peers


def say_opened(peer: Peer, rows: int) -> None:
    """What an index took."""
    memory = "memory unknown" if peer.memory_bytes is None else f"{peer.memory_bytes / rows:,.0f} bytes a row"
    how = "built in" if peer.fresh else "found; its build took"
    say(f"{peer.engine} {peer.index}: {how} {peer.build_s:.1f} s, {memory}")


def one_turn(
    peers: list[tuple[Peer, Record]], dataset: Dataset, measured: Measured, arguments: argparse.Namespace
) -> list[Record]:
    """Every command and every peer once; `measured` tells which settings are worth another turn, and their recall."""
    turn: list[Record] = []
    for command in arguments.command:
        turn += run_command(command, arguments.command_name, dataset.name, arguments.k)
    for peer, shared in peers:
        start = time.perf_counter()
        queries = peer.queries(dataset.queries)
        settings = settings_to_repeat(peer, measured)
        for setting in settings:
            timing = time_queries(peer.searcher(setting, arguments.k), queries, arguments.k)
            before = measured.get((peer.engine, peer.index, setting))
            recall = before[0]["recall"] if before else round(recall_at(dataset, timing.rows, arguments.k), 5)
            turn.append(shared | {"setting": setting, "recall": recall} | timing.fields())
        say(f"  {peer.engine} {peer.index}: {len(settings)} settings in {time.perf_counter() - start:.1f} s")
    return turn


def index_fields(peer: Peer, dataset: Dataset, k: int) -> Record:
    """The fields that all settings of an index share."""
    rows = len(dataset.base)
    return {
        "engine": peer.engine,
        "index": peer.index,
        "dataset": dataset.name,
        "k": k,
        "call_overhead_us": round(peer.call_overhead_us(dataset.queries, k), 2),
        "memory_bytes_per_row": None if peer.memory_bytes is None else round(peer.memory_bytes / rows, 1),
        "code_bytes_per_row": None if peer.code_bytes is None else round(peer.code_bytes / rows, 1),
        "build_s": round(peer.build_s, 2),
    }


def settings_to_repeat(peer: Peer, measured: Measured) -> list[str]:
    """All settings in the first turn, then those that no other setting of the index beats clearly."""
    own = (peer.engine, peer.index)
    records = [repetitions[0] for name, repetitions in measured.items() if name[:2] == own]
    if not records:
        return peer.settings()
    return [
        record["setting"]
        for record in records
        if not any(
            other["recall"] >= record["recall"] and other["qps"] >= CLEARLY_FASTER * record["qps"] for other in records
        )
    ]


def run_command(command: str, engine: str, dataset: str, k: int) -> list[Record]:
    """Run a command (split like a shell would, without a shell) and read the report on its standard output."""
    done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(f"{command!r} exited with {done.returncode}")
    try:
        return from_measure_recall(json.loads(done.stdout), engine, dataset, k)
    except (json.JSONDecodeError, KeyError) as error:
        raise CommandError(f"{command!r} printed no report of measure-recall --json: {error!r}") from error


if __name__ == "__main__":
    sys.exit(main())
