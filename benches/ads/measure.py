#!/usr/bin/env python3
"""Measures the ad service: latency, filters, pauses, updates, overload, slow clients. Prints one JSON object.

    benches/ads/prepare.sh DIR
    benches/ads/measure.py DIR [--bin target/release] [--only load,filters,pause,updates,overload,slow,ecpm]

The server, the load generator and this script share the machine: `client` in the results says what share of a core the load
generator took.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 100
SEGMENTS = {"100 %": None, "10 %": 100, "1 %": 10, ".1 %": 1}


class Server:
    """`bigrain serve` over the prepared index, with a fresh state folder."""

    def __init__(self, binary, folder, settings=()):
        state = folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        command = [binary / "bigrain", "serve", "--index", folder / "index", "--state", state, "--listen", "127.0.0.1:0"]
        queries = HERE / "testdata/products"
        settings = [f"known_queries.texts={queries / 'queries.tsv'}",
                    f"known_queries.vectors={queries / 'query_vectors.npy'}", "timeouts.search_ms=2000",
                    # Recall is measured for as long.
                    "timeouts.search_max_ms=600000", *settings]
        command += [word for setting in settings for word in ("--set", setting)]
        self.log = (folder / "server.log").open("w+")
        self.process = subprocess.Popen([str(word) for word in command], stderr=self.log)
        self.url = self.wait()

    def wait(self):
        while True:
            text = pathlib.Path(self.log.name).read_text()
            if "listening on http://" in text:
                return "http://" + text.split("listening on http://")[1].split()[0]
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended:\n{text}")
            time.sleep(0.05)

    def ask(self, method, path, body=None, media="application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, {"content-type": media}, method=method)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def patch(self, lines):
        return self.ask("PATCH", "/v1/collections/default/control", "\n".join(lines), "application/x-ndjson")

    def describe_all(self, path):
        lines = path.read_text().splitlines()
        for first in range(0, len(lines), 20_000):
            answer = self.patch(lines[first:first + 20_000])
            assert answer["rejected"] == 0, answer["items"][:3]
        # The values that bids are weighed by follow within a second or two.
        time.sleep(3)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def load(options, server, *flags):
    """What load-test reports of one load or several."""
    command = [options.bin / "load-test", "--url", server.url, "--queries", HERE / "testdata/products/vectors.npy",
               "--limit", LIMIT, "--json", "--duration", options.seconds, *flags]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"load-test failed: {done.stderr}")
    return json.loads(done.stdout)


def saturation(options, server):
    """Answers a second that eight closed connections get: as many as the server can give with the client beside."""
    return load(options, server, "--closed", 8)["loads"][0]


def measure_load(options, server):
    peak = saturation(options, server)
    rate = peak["achieved_qps"]
    open_loops = load(options, server, "--rates", f"{rate / 2:.0f},{rate * 0.95:.0f}")
    one = load(options, server, "--closed", 1)
    return {"closed": peak, "one": one["loads"][0], "half": open_loops["loads"][0], "full": open_loops["loads"][1]}


def measure_filters(options, server):
    rows = {}
    for name, below in SEGMENTS.items():
        search = {"limit": LIMIT}
        if below is not None:
            search["filter"] = {"must": [{"attribute": "segment", "range": {"lt": below}}]}
        recall = server.ask("POST", "/v1/collections/default/recall", {"queries": 135, "search": search})
        flags = ["--filter", json.dumps(search["filter"])] if below is not None else []
        rows[name] = {"recall": recall["recall"], "median_ms": recall["median_ms"],
                      "load": load(options, server, "--closed", 1, *flags)["loads"][0]}
    return rows


def measure_ecpm(options, server):
    rows = {}
    for least in (0.3, 0.5):
        search = {"limit": LIMIT, "rank": "ecpm", "min_relevance": least}
        answer = server.ask("POST", "/v1/collections/default/recall", {"queries": 135, "search": search})
        rows[str(least)] = {key: answer[key] for key in ("recall", "ecpm_recall", "median_ms")}
    return rows


def measure_pause(_, server):
    """The campaign with a tenth of all ads: time to pause it, and whether the next request knows."""
    path, times, wrong = "/v1/collections/default/search", [], 0
    query = {"text": "laptop", "limit": LIMIT}
    for turn in range(40):
        status = "paused" if turn % 2 == 0 else "active"
        begun = time.perf_counter()
        epoch = server.patch([json.dumps({"level": "campaign", "id": 1, "status": status})])["control_epoch"]
        times.append((time.perf_counter() - begun) * 1e3)
        answer = server.ask("POST", path, query)
        shown = any(hit.get("campaign") == 1 for hit in answer["hits"])
        wrong += shown != (status == "active") or answer["control_epoch"] < epoch
    return {"patches": len(times), "median_ms": statistics.median(times), "slowest_ms": max(times), "wrong": wrong}


def measure_updates(options, server):
    rate = options.rate or saturation(options, server)["achieved_qps"] / 2
    flags = ["--rates", f"{rate:.0f}"]
    alone = load(options, server, *flags)["loads"][0]
    beside = load(options, server, *flags, "--updates", 1000)
    return {"rate": rate, "alone": alone, "with_updates": beside}


def measure_overload(options, server):
    peak = saturation(options, server)
    rate = peak["achieved_qps"]
    # Enough connections that the server, and not the client, is where requests wait.
    flags = ["--rates", f"{2 * rate:.0f},{10 * rate:.0f},{rate / 2:.0f}", "--connections", 2000]
    loads = load(options, server, *flags)["loads"]
    return {"peak": peak, "2x": loads[0], "10x": loads[1], "afterwards": loads[2]}


def measure_slow(options, server):
    rate = options.rate or saturation(options, server)["achieved_qps"] / 2
    alone = load(options, server, "--rates", f"{rate:.0f}")["loads"][0]
    return {"alone": alone, "beside_1000": load(options, server, "--rates", f"{rate:.0f}", "--slow-clients", 1000)}


MEASURES = {"load": measure_load, "filters": measure_filters, "ecpm": measure_ecpm, "pause": measure_pause,
            "updates": measure_updates, "overload": measure_overload, "slow": measure_slow}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--bin", type=pathlib.Path, default=HERE / "target/release")
    parser.add_argument("--only", default=",".join(MEASURES))
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=float, help="requests a second where half of saturation is meant")
    options = parser.parse_args()
    results = {}
    for name in options.only.split(","):
        server = Server(options.bin, options.folder, ["limits.connections=4096"])
        try:
            server.describe_all(options.folder / "control.ndjson")
            results[name] = MEASURES[name](options, server)
        finally:
            server.stop()
        print(json.dumps({name: results[name]}), flush=True)


if __name__ == "__main__":
    main()
