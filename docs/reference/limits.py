"""The page "Limits": what ends whatever doesn't end by itself. The numbers are read from the code."""

import importlib

from limit import Limit
from refusals import NOTE
from request_limits import REQUESTS

INTRO = """# Limits

Nothing waits for ever: whatever comes from elsewhere (an environment, a file, a program, the network) has a
limit in steps, seconds or bytes. The message that it ends with names the limit and what to change. Ctrl-C
ends every command at any time.

"""
OUTRO = """Without a limit are code of your own that a spec names (`file.py:function`, a recipe) and a
benchmark: both may take as long as they like. A limit in seconds can't end a library that never lets Python's
other threads run.
"""


TABLES = {
    "Learning and importing": (
        Limit(
            "one call of an environment: make, reset, step, render, close",
            "training.policies.envs.checked:CALL_SECONDS",
            "seconds",
            "`training.environment_options.max_step_seconds`",
        ),
        Limit(
            "an episode of an environment that sets no limit",
            "training.policies.envs.checked:STEP_LIMIT",
            "steps",
            "`training.environment_options.max_episode_steps`",
        ),
        Limit(
            "the database of a search, while another process writes",
            "marina.core.search:WAIT_SECONDS",
            "seconds",
            "say fewer `--processes`, or end a program that keeps `cache/search/` locked",
        ),
        Limit(
            "a tracker's start, and that of W&B; what is left to send, and after a signal",
            "training.tracking.tracker:START_SECONDS INIT_SECONDS FLUSH_SECONDS INTERRUPTED_SECONDS",
            "seconds",
            "mend the server, or take it out of `marina.yaml`",
        ),
        Limit(
            "a server of weights that says nothing",
            "training.imports.fetching:SILENT_SECONDS",
            "seconds",
            "put the file there by hand; the message says where",
        ),
        Limit(
            "a file of weights that comes slowly",
            "training.imports.fetching:DOWNLOAD_SECONDS",
            "seconds",
            "put the file there by hand",
        ),
        Limit(
            "what a zip unpacks to (`.pt2`, `.pth`, `.zip`, `.mar`)",
            "marina.core.zip_files:UNPACKED_BYTES",
            "bytes",
            "save it again",
        ),
        Limit(
            "the same of a large one", "marina.core.zip_files:MOST_PACKED", "times its size", "save it again"
        ),
        Limit("the same of `.npz`", "training.data.medmnist:MOST_PACKED", "times its size", "save it again"),
        Limit("the files of a zip", "marina.core.zip_files:MAX_MEMBERS", "files", "save it again"),
        Limit(
            "the readable part of a zip of stable-baselines3",
            "training.imports.baselines_zip:DATA_BYTES",
            "bytes",
            "save it again",
        ),
        Limit(
            "an embedder's index", "handlers.inputs.vector_index:MOST_ENTRIES", "texts", "name a smaller file"
        ),
        Limit("a YAML file", "marina.core.yaml_files:LARGEST_BYTES", "bytes", "write a shorter one"),
        Limit(
            "a YAML file, every alias followed", "marina.core.yaml_files:MOST_VALUES", "values", "the same"
        ),
        Limit("a VOC annotation", "training.data.voc:MOST_BYTES", "bytes", "see what the file is"),
        Limit("a YOLO text file", "training.data.yolo:MOST_BYTES", "bytes", "see what the file is"),
        Limit("a table of labels", "training.data.label_table:MOST_BYTES", "bytes", "split it"),
        Limit("a file of texts, unpacked", "training.data.text_files:MOST_BYTES", "bytes", "split it"),
        Limit(
            "a table to learn from: its file, its rows",
            "training.data.tables:MOST_BYTES MOST_ROWS",
            "bytes, rows",
            "learn from a part of it",
        ),
        Limit(
            "categories of a one-hot column",
            "training.tables.fitting_columns:MOST_CATEGORIES",
            "categories",
            "give it an `embedding`, or `unknown: other` with a `min_count`",
        ),
        Limit(
            "an ONNX graph", "training.tensors.onnx_graphs:MOST_BYTES", "bytes", "import the module itself"
        ),
        Limit("the labels of a shard", "training.data.shards:MOST_LABEL_BYTES", "bytes", "see what it is"),
        Limit(
            "the candidates of an export: start, build, call",
            "training.export.runtimes.trial_process:START_SECONDS BUILD_SECONDS CALL_SECONDS",
            "seconds",
            "that candidate is left out",
        ),
        Limit("their memory", "training.export.runtimes.trial_process:MEMORY_GB", "GB", "the same"),
        Limit(
            "a cache file that another program has locked",
            "training.vision.record_cache:LOCK_SECONDS",
            "seconds",
            "nothing is kept there, which costs time",
        ),
        Limit(
            "the other processes of a training, until they have their data",
            "training.runs.processes:READY_SECONDS",
            "seconds",
            "see what they wait for",
        ),
        Limit("git, for the report", "training.runs.environment:GIT_SECONDS", "seconds", "no commit is said"),
        Limit(
            "tokens of a text that a recurrent generator reads",
            "training.generation.settings:MOST_UNROLLED",
            "tokens",
            "`training.architecture: transformer`",
        ),
    ),
    "Archiving, serving, releasing": (
        Limit(
            "torch-model-archiver", "marina.packaging.archive:ARCHIVER_SECONDS", "seconds", "a faster disk"
        ),
        Limit(
            "`marina archive --stock-check`: the installation, the load",
            "marina.packaging.stock_check:INSTALL_SECONDS LOAD_SECONDS",
            "seconds",
            "see whether the package index is reached",
        ),
        Limit(
            "the start of a server",
            "marina.engines.engine:START_SECONDS",
            "seconds",
            "the end of its log is shown; Ray Serve has five minutes",
        ),
        Limit("the end of a server", "marina.engines.server_process:STOP_SECONDS", "seconds", "it is killed"),
        Limit(
            "a container's server: notice of its end, then what was accepted",
            "marina.engines.standalone.model_server:DRAIN_SECONDS STOP_SECONDS",
            "seconds",
            "`--drain-seconds`; what still computes then is cut off",
        ),
        Limit(
            "the start of Ray (three tries), the catalog, the front",
            "marina.engines.ray.limits:CONNECT_SECONDS CATALOG_SECONDS FRONT_SECONDS",
            "seconds",
            "the end of its log is shown",
        ),
        Limit("the nodes of `marina cluster up`", "marina.commands.cluster:MOST_NODES", "nodes", "-"),
        Limit(
            "a front that `marina cluster status` asks",
            "marina.commands.cluster:PROBE_SECONDS",
            "seconds",
            "it counts as not answering",
        ),
        Limit(
            "the begin and the end of a shadow",
            "marina.client.sync_client:SHADOW_SECONDS",
            "seconds",
            "ask again for its tally",
        ),
        Limit(
            "a node of `marina cluster up` (three tries)",
            "marina.engines.ray.limits:NODE_SECONDS",
            "seconds",
            "the end of its log is shown",
        ),
        Limit(
            "an archive that a node fetches, a server of archives that says nothing",
            "marina.engines.ray.limits:FETCH_SECONDS SILENT_SECONDS",
            "seconds",
            "the version does not come up, with the reason",
        ),
        Limit(
            "a proxy that is asked for its routes, by the catalog and by a change",
            "marina.engines.ray.limits:ROUTES_SECONDS",
            "seconds",
            "what was known counts",
        ),
        Limit(
            "on Ray: the process of a replica, a change of routes, a description",
            "marina.engines.ray.limits:PROCESS_SECONDS CHANGE_SECONDS FRONTS_SECONDS ASK_SECONDS",
            "seconds",
            "the call fails with the reason",
        ),
        Limit(
            "on Ray: what was accepted, at a stop", "marina.engines.ray.limits:DRAIN_SECONDS", "seconds", "-"
        ),
        Limit(
            "on Ray: a request that is sent again when a replica dies",
            "marina.engines.ray.limits:RETRY_BYTES",
            "bytes",
            "send a longer one again",
        ),
        Limit("failed restarts in a row", "marina.engines.supervisor:TRIES", "times", "see the log"),
        Limit(
            "requests that are pending when a version is replaced",
            "marina.release.rollout:DRAIN_SECONDS",
            "seconds",
            "they stay with the old version",
        ),
        Limit(
            "nginx, to take its configuration",
            "marina.release.traffic_split:NGINX_SECONDS",
            "seconds",
            "see its log",
        ),
        Limit(
            "Locust, beyond the time that was asked for",
            "marina.load.load_test:MORE_SECONDS",
            "seconds",
            "see `marina ready`",
        ),
    ),
    "Requests": REQUESTS,
}
SET_ELSEWHERE = """Set in the spec or in a call, with their own defaults: `training.max_bytes`, `max_pixels`
and `max_frames` of a file ([recipes](recipes.md)), `serving.startup_timeout_s` and
`serving.response_timeout_s` of a worker ([spec](spec.md)), `max_request_size` and `max_response_size` of a
server (`config.properties`), `timeout` and `retries` of a client ([client](client-api.md)).

"""


def limits_page() -> str:
    """A table for each part."""
    parts = [INTRO]
    for title, limits in TABLES.items():
        rows = [f"| {each.what} | {_values(each)} | {each.change} |\n" for each in limits]
        parts.append(f"## {title}\n\n| what | limit | then |\n|---|---|---|\n{''.join(rows)}\n")
    return "".join(parts) + SET_ELSEWHERE + OUTRO + NOTE


def constants() -> set[str]:
    """The constants on the page, "module:NAME"."""
    return {
        f"{each.constants.partition(':')[0]}:{name}"
        for limits in TABLES.values()
        for each in limits
        for name in each.constants.partition(":")[2].split()
    }


def _values(limit: Limit) -> str:
    module, _, names = limit.constants.partition(":")
    values = [getattr(importlib.import_module(module), name) for name in names.split()]
    return f"{', '.join(f'{value:,.10g}' for value in values)} {limit.unit}"
