"""The part "Requests" of the page "Limits"."""

from limit import Limit

REQUESTS = (
    Limit(
        "a body that is compressed",
        "handlers.protocol.bodies:MAX_UNPACKED_BYTES",
        "bytes",
        "send less at once",
    ),
    Limit("its pieces", "handlers.protocol.bodies:MAX_MEMBERS", "pieces", "send one"),
    Limit(
        "the head of a request (standalone)",
        "marina.engines.gateway.http_protocol:MAX_HEAD_BYTES",
        "bytes",
        "send fewer headers",
    ),
    Limit(
        "a request that arrives slowly (standalone)",
        "marina.engines.gateway.http_protocol:REQUEST_SECONDS",
        "seconds",
        "408; send it faster",
    ),
    Limit("the fields of a form", "marina.engines.gateway.forms:MAX_FIELDS", "fields", "send fewer"),
    Limit("instances", "handlers.protocol.requests:MAX_INSTANCES", "instances", "send fewer"),
    Limit("values of a tensor", "handlers.inputs.tensors:MAX_VALUES", "values", "send fewer"),
    Limit(
        "the body of a job that arrives slowly",
        "marina.engines.gateway.jobs.service:BODY_SECONDS",
        "seconds",
        "408; send it faster",
    ),
    Limit(
        "workers that a job ends",
        "marina.engines.gateway.jobs.store:MAX_CRASHES",
        "workers",
        "the job fails",
    ),
    Limit(
        "calls of a job's callback",
        "marina.engines.gateway.jobs.store:MAX_CALLBACK_TRIES",
        "tries",
        "poll the job",
    ),
    Limit(
        "a reader of a stream who takes nothing",
        "marina.engines.gateway.event_streams:STALL_SECONDS",
        "seconds",
        "the stream ends",
    ),
    Limit("tensors of a call (KServe v2)", "handlers.protocol.kserve:MAX_INPUTS", "inputs", "send fewer"),
    Limit("the pieces of an image's file", "handlers.inputs.image_files:MAX_READS", "reads", "save it again"),
    Limit("the pieces of a clip's file", "handlers.inputs.clips:MAX_READS", "reads", "save it again"),
    Limit("the longer side of an image", "handlers.inputs.image_files:MAX_SIDE", "pixels", "scale it down"),
    Limit(
        "texts in a PNG, unpacked",
        "handlers.inputs.image_files:MAX_TEXT_BYTES",
        "bytes",
        "save it without",
    ),
    Limit(
        "the pixels of a JPEG in all its scans",
        "handlers.inputs.image_files:MAX_SCANNED",
        "pixels",
        "save it as baseline",
    ),
    Limit("an answer", "handlers.protocol.replies:MAX_ANSWER_BYTES", "bytes", "`serving.max_answer_bytes`"),
    Limit(
        "a client's probe of one of several hosts; the rest of one that failed; the pause before another",
        "marina.client.hosts:PROBE_SECONDS REST_SECONDS SETTLE_SECONDS",
        "seconds",
        "another host is asked",
    ),
    Limit(
        "requests that wait for a shadow, per process",
        "marina.engines.gateway.shadow:MOST_WAITING",
        "requests",
        "others are skipped, and counted",
    ),
    Limit(
        "an answer, as the Python clients read it",
        "marina.client.wire:MAX_REPLY_BYTES",
        "bytes",
        "set `marina.client.wire.MAX_REPLY_BYTES`",
    ),
    Limit(
        "texts that end an answer; characters of each; beams of a search",
        "handlers.decoding.options:MOST_STOPS LONGEST_STOP MOST_BEAMS",
        "",
        "send fewer, or shorter ones",
    ),
)
