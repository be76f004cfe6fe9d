"""The hosts of the bench, for pyinfra."""

import json
import os
from pathlib import Path

_job = json.loads(Path(os.environ["BENCH_JOB"]).read_text())
_login = {
    "ssh_user": _job["user"],
    "ssh_key": _job["key"],
    "ssh_known_hosts_file": _job["known_hosts"],
    "ssh_strict_host_key_checking": "yes",
}
gpu = [(name, {**_login, **_job["vars"], **host}) for name, host in _job["hosts"].items()]
