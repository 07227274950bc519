#!/usr/bin/env python3
"""Measure FAISS and ScaNN, and any command that reports like `measure-recall --json`, on one data set, in turn.

Every index is built once. Then all are measured R times in turn, each time every setting of every index over all
queries, one query a call, in one thread; the command runs in each turn too, so that what else happens on the machine
hits all alike.
A setting that another of the same index beats clearly at no less recall is measured once only. Records hold the medians
(fields: records.py); `frontier.py` makes tables and plots of them.

    benches/peers/setup.sh
    benches/fetch_datasets.py data
    benches/peers/.venv/bin/python benches/peers/run.py data/fashion-mnist --out peers.jsonl \\
        --command 'target/release/measure-recall --index INDEX --queries data/fashion-mnist/queries.npy
                   --truth data/fashion-mnist/truth.npy -k 10 --threads 1 --json'
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from engines import FaissPlan, Peer, ScannPlan
from measure import Dataset, recall_at, time_queries
from plans import K_FACTOR_RF, NPROBE, PLANS
from records import Record, from_measure_recall, machine, median_record, write

CLEARLY_FASTER = 1.3


class CommandError(Exception):
    """A command that failed or printed no report."""


def main() -> int:
    """Build, measure in turn, write the records."""
    arguments = parse_arguments()
    dataset = Dataset.open(arguments.dataset, arguments.queries)
    environment = {"machine": machine(), "load": round(os.getloadavg()[0], 2)}
    peers = [build(plan, dataset) for plan in chosen_plans(arguments, dataset.name)]
    measured: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    try:
        for repetition in range(arguments.repetitions):
            print(f"repetition {repetition + 1} of {arguments.repetitions}", file=sys.stderr, flush=True)
            for record in one_turn(peers, dataset, measured, arguments):
                measured[record["engine"], record["index"], record["setting"]].append(record)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write(arguments.out, (median_record(repetitions) | environment for repetitions in measured.values()))
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder made by fetch_datasets.py")
    parser.add_argument("--out", type=Path, required=True, help="file of records, one JSON object a line")
    parser.add_argument("-k", type=int, default=10, help="rows a query (default 10)")
    parser.add_argument("--repetitions", type=int, default=3, metavar="R", help="turns (default 3)")
    parser.add_argument("--queries", type=int, metavar="N", help="the first N queries only")
    parser.add_argument("--engine", choices=["faiss", "scann", "none"], help="this peer alone, or none of them")
    parser.add_argument("--index", action="append", metavar="FACTORY", help="these FAISS indexes instead of the plans")
    parser.add_argument("--command", action="append", default=[], help="a command to measure too; may be repeated")
    parser.add_argument("--command-name", default="bigrain", help="engine named in its records (default bigrain)")
    return parser.parse_args()


def chosen_plans(arguments: argparse.Namespace, dataset: str) -> list[FaissPlan | ScannPlan]:
    """The plans of the data set that the command line selects."""
    if arguments.index:
        return [FaissPlan(factory, NPROBE, K_FACTOR_RF) for factory in arguments.index]
    kinds = {"faiss": FaissPlan, "scann": ScannPlan, "none": (), None: (FaissPlan, ScannPlan)}[arguments.engine]
    return [plan for plan in PLANS.get(dataset, ()) if isinstance(plan, kinds)]


def build(plan: FaissPlan | ScannPlan, dataset: Dataset) -> Peer:
    """Build one index and say so."""
    peer = plan.build(dataset)
    per_row = peer.memory_bytes / len(dataset.base)
    print(
        f"built {peer.engine} {peer.index}: {peer.build_s:.1f} s, {per_row:.0f} bytes a row",
        file=sys.stderr,
        flush=True,
    )
    return peer


def one_turn(
    peers: list[Peer],
    dataset: Dataset,
    measured: dict[tuple[str, str, str], list[Record]],
    arguments: argparse.Namespace,
) -> list[Record]:
    """Every command and every peer once; `measured` tells which settings are worth another turn."""
    turn: list[Record] = []
    for command in arguments.command:
        turn += run_command(command, arguments.command_name, dataset.name, arguments.k)
    for peer in peers:
        queries = peer.queries(dataset.queries)
        shared = index_fields(peer, dataset, arguments.k)
        for setting in settings_to_repeat(peer, measured):
            timing = time_queries(peer.searcher(setting, arguments.k), queries, arguments.k)
            recall = round(recall_at(dataset, timing.rows, arguments.k), 5)
            turn.append(shared | {"setting": setting, "recall": recall} | timing.fields())
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
        "memory_bytes_per_row": round(peer.memory_bytes / rows, 1),
        "code_bytes_per_row": round(peer.code_bytes / rows, 1),
        "build_s": round(peer.build_s, 2),
    }


def settings_to_repeat(peer: Peer, measured: dict[tuple[str, str, str], list[Record]]) -> list[str]:
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
