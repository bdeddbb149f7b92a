"""What killed commands left of the servers that they ran for themselves."""

import logging
import shutil

from marina.core import paths
from marina.engines import server_process

log = logging.getLogger("marina")


def remove_leftovers() -> None:
    """Remove the folders run/PORT/ of private servers whose commands are gone, with a warning.

    What ended in any other way has removed its own, or keeps the logs of a failure there.
    """
    for file in sorted(paths.run(0).parent.glob("*/state.json")):
        folder = file.parent
        state = server_process.written_state(int(folder.name)) if folder.name.isdecimal() else None
        if not state or not state.is_private or state.owner_process():
            continue
        if server_process.clean(state.port):
            shutil.rmtree(folder, ignore_errors=True)
            log.warning("removed %s, which a killed command left", folder)
