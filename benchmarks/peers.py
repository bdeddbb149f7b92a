"""Loads our server and others with one client.

The peers' kit, a folder with bench.py, loads each with wrk and prints one table.

The kit installs its peers into environments of their own ($PEERS_HOME), serves the same two models with each,
and counts the processor time of all its processes. Ours is loaded by the kit too, as a server that somebody
else started.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

WORKLOADS = {"policy": "policy", "resnet18": "classifier"}  # our model -> what the kit calls it

KIT_SECONDS = 3600  # of one call of the kit


@dataclass(frozen=True)
class Kit:
    """The kit in `folder`.

    `peers` are the names to run, `modes` those of their classifier (eager, bf16), `seconds` the time of each
    load.
    """

    folder: Path
    peers: list[str]
    modes: list[str]
    seconds: int
    results: Path

    def problem(self) -> str:
        """What is missing for a run, or an empty text."""
        if not (self.folder / "bench.py").is_file():
            return f"no bench.py in {self.folder}; --peers names the folder of the peers' kit"
        return "" if shutil.which("wrk") else "no wrk, the kit's client; install the package wrk"

    def load_ours(self, model: str, runtime: str, port: int, process: int, authorization: str) -> None:
        """Load our server, which serves `model` at `port`; `process` is its main one."""
        workload = WORKLOADS[model]
        self._run(
            *(
                "--url",
                f"http://127.0.0.1:{port}",
                "--url-pid",
                str(process),
                "--name",
                f"marina ({runtime})",
                "--like",
                "torchserve",
            ),
            *(f"--{workload}-path", f"/predictions/{model}", "--header", f"Authorization: {authorization}"),
            *("--workload", workload),
            modes=self.modes if workload == "classifier" else ["eager"],
        )

    def load_peers(self, models: list[str]) -> None:
        """Serve and load every peer with the workloads of our `models`; the policy has no modes."""
        for workload in (WORKLOADS[model] for model in models if model in WORKLOADS):
            for peer in self.peers:
                self._run(
                    peer, "--workload", workload, modes=self.modes if workload == "classifier" else ["eager"]
                )

    def show(self) -> None:
        """Print the kit's table of this run."""
        subprocess.run(
            [sys.executable, "bench.py", "--table", "--out", str(self.results)],
            cwd=self.folder,
            check=True,
            timeout=60,
        )

    def _run(self, *arguments: str, modes: list[str]) -> None:
        # the kit sets its peers' own
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        for mode in modes:
            words = ["--mode", mode, "--seconds", str(self.seconds), "--out", str(self.results)]
            code = subprocess.run(
                [sys.executable, "bench.py", *arguments, *words],
                cwd=self.folder,
                env=environment,
                check=False,
                timeout=KIT_SECONDS,
            ).returncode
            if code != 0:
                print(
                    f"the kit ended with {code}: {arguments[0]}, mode {mode}; the others go on",
                    file=sys.stderr,
                )
