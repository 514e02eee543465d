"""Names of the files in the cache folder: one for everything that their content depends on."""

import hashlib
import json


def cache_key(**fields: str | int) -> str:
    """Digest (32 hex digits) of everything a cached file depends on.

    Parameters
    ----------
    **fields
        Name and value of each thing; a change in any of them gives another key.
    """
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]
