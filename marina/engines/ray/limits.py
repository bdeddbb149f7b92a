"""How long Ray, Serve and their replicas may take, in seconds, and what they send again, in bytes."""

CONNECT_SECONDS = 90.0  # until Ray has started, at one of its tries
NODE_SECONDS = 90.0  # until a node of a local cluster has started, at one of its tries
CATALOG_SECONDS = 120.0  # until the catalog runs
FRONT_SECONDS = 60.0  # until the front answers
PROCESS_SECONDS = 60.0  # until a replica's process has started, beside the time that its version may take
CHANGE_SECONDS = 60.0  # until all proxies have a change of routes
FRONTS_SECONDS = 20.0  # until the front of every node reaches a replica of each model
ROUTES_SECONDS = 2.0  # until a proxy lists its routes
FETCH_SECONDS = 600.0  # until a node has fetched an archive
SILENT_SECONDS = 30.0  # until a server of archives says something
ASK_SECONDS = 5.0  # until a replica says what it serves
DRAIN_SECONDS = 10.0  # for what was accepted, when the server is stopped
RETRY_BYTES = 262_144  # a longer request is not sent again to another replica when one has died
