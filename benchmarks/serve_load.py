"""Many clients at once against `scripts/serve.py` on loopback: latency, refusals, lost requests, memory of the server.

    python benchmarks/serve_load.py outputs/demo/model --output benchmarks/serve_load

Each phase has a number of clients, each with one connection and one request at a time. A client that is sent away
with 503 comes again after the time it was told, and its latency counts from its first try. An answer that is not the
same, byte by byte, as a lone client's is an error. Writes results.json and README.md.
"""

import argparse
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch


ROOT = Path(__file__).parents[1]
SERVE = ("-m", "modeling_resformer.commands.serve")
IMAGE = ROOT / "examples" / "isic2017_sample" / "ISIC-2017_Training_Data" / "ISIC_0000051.jpg"
WAITING = 16
PHASES = ((1, 200), (4, 600), (16, 1500), (64, 2000))  # clients, requests of all of them
SAMPLE_SECONDS = 1.0
KEPT_SAMPLES = 20  # one in so many is written down


@dataclass
class Phase:
    """What one number of clients saw; times in seconds from a request's first try to its answer."""

    clients: int
    requests: int
    answered: int
    errors: dict[str, int]
    refused: int
    seconds: float
    per_second: float
    p50: float
    p95: float
    p99: float
    slowest: float


class Load:
    """Clients that share a number of requests."""

    def __init__(self, port: int, body: bytes, expected: bytes, requests: int) -> None:
        self.port, self.body, self.expected = port, body, expected
        self.left = requests
        self.latencies: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.lock = threading.Lock()

    def client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while self.take():
            start = time.perf_counter()
            try:
                outcome = self.one(connection)
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
                connection.close()
            with self.lock:
                self.outcomes[outcome] += 1
                self.latencies.append(time.perf_counter() - start)
        connection.close()

    def take(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def one(self, connection: http.client.HTTPConnection) -> str:
        while True:
            connection.request("POST", "/predict", self.body, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            content = response.read()
            if response.status != 503:
                break
            with self.lock:
                self.outcomes["refused"] += 1
            time.sleep(float(response.headers["retry-after"]))
        if response.status != 200:
            return f"status {response.status}"
        return "answered" if content == self.expected else "another answer"


def run_phase(port: int, body: bytes, expected: bytes, clients: int, requests: int) -> Phase:
    load = Load(port, body, expected, requests)
    threads = [threading.Thread(target=load.client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    cuts = statistics.quantiles(load.latencies, n=100, method="inclusive")
    answered, refused = load.outcomes.pop("answered", 0), load.outcomes.pop("refused", 0)
    return Phase(
        clients,
        requests,
        answered,
        dict(load.outcomes),
        refused,
        round(seconds, 2),
        round(answered / seconds, 2),
        *(round(value, 4) for value in (cuts[49], cuts[94], cuts[98], max(load.latencies))),
    )


class Memory(threading.Thread):
    """Samples the resident memory of a process, in MiB (Linux)."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.status, self.samples, self.over = Path(f"/proc/{process}/status"), [], threading.Event()

    def now(self) -> float:
        line = next(line for line in self.status.read_text().splitlines() if line.startswith("VmRSS:"))
        return round(int(line.split()[1]) / 1024, 1)

    def run(self) -> None:
        while not self.over.wait(SAMPLE_SECONDS):
            self.samples.append(self.now())


def wait_until_loaded(port: int) -> None:
    for _ in range(1200):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/health")
        if connection.getresponse().status == 200:
            return
        time.sleep(0.1)
    raise SystemExit("The server did not load its model within two minutes.")


def alone(port: int, body: bytes) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/predict", body, {"Content-Type": "image/jpeg"})
    return connection.getresponse().read()


def measure(model: str, image: Path) -> dict:
    body = image.read_bytes()
    command = [sys.executable, *SERVE, model, "--port", "0", "--cpu-threads", "1", "--queue", str(WAITING)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            port = int(process.stdout.readline().strip().rpartition(":")[2])
            wait_until_loaded(port)
            expected = alone(port, body)
            memory = Memory(process.pid)
            memory.start()
            phases, after = [], {"start": memory.now()}
            for clients, requests in PHASES:
                phases.append(run_phase(port, body, expected, clients, requests))
                after[f"{clients} clients"] = memory.now()
                sys.stdout.write(f"{phases[-1]}\n")
            memory.over.set()
        finally:
            process.terminate()
            process.wait(timeout=60)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"two-core {platform.machine().replace('_', '-')} CPU",
        "other_load": f"other jobs ran on it: load average {os.getloadavg()[1]:.1f} over the last five minutes",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "image": f"{image.name}, {len(body)} bytes",
        "waiting": WAITING,
        "phases": [asdict(phase) for phase in phases],
        "resident_mib": {
            "after": after,
            "highest": max([*memory.samples, *after.values()]),
            "seconds_between_samples": KEPT_SAMPLES * SAMPLE_SECONDS,
            "samples": memory.samples[::KEPT_SAMPLES],
        },
    }


def report(results: dict) -> str:
    rows = "\n".join(
        "| {clients} | {requests} | {answered} | {errors} | {refused} | {per_second:.1f} | {p50:.3f} | {p95:.3f} | "
        "{p99:.3f} | {slowest:.2f} |".format(**{**phase, "errors": sum(phase["errors"].values())})
        for phase in results["phases"]
    )
    memory = ", ".join(f"{value:.0f} after {name}" for name, value in results["resident_mib"]["after"].items())
    lost = sum(phase["requests"] - phase["answered"] for phase in results["phases"])
    how = (
        f"`benchmarks/serve_load.py`, {results['date']}, on a {results['machine']}; {results['other_load']}, and the "
        "clients ran on the same two cores, so the times are those of a busy machine. One forward thread, "
        f"{results['model']}, image {results['image']}, both tasks asked (`/predict`), {results['waiting']} requests "
        "may wait. Every answer was compared, byte by byte, with that of a lone client."
    )
    seen = (
        f"Requests lost: **{lost}**. A request that was told to come again (503 with Retry-After) did so, and its time "
        "counts from its first try; those that come again have no older right than newcomers, which is why the slowest "
        "of many clients wait long. Resident memory of the server in MiB: "
        f"{memory}; highest {results['resident_mib']['highest']:.0f}."
    )
    columns = (
        "clients | requests | answered | errors | told to come again | a second | p50 s | p95 s | p99 s | slowest s"
    )
    ruler = "|".join(["---"] * 10)
    paragraphs = [textwrap.fill(text, 119) for text in (how, seen)]
    table = f"| {columns} |\n|{ruler}|\n{rows}"
    return f"# The server under load\n\n{paragraphs[0]}\n\n{table}\n\n{paragraphs[1]}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a model")
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "serve_load")
    parser.add_argument("--name", default="a small model", help="what the report calls the model")
    arguments = parser.parse_args()
    results = {**measure(arguments.model, arguments.image), "model": arguments.name}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.output / "README.md").write_text(report(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
