"""The logs of a balancer's nginx. The log of requests has no key: the gateway notes the id of a key alone."""

from provision.steps.nginx_paths import LOGS
from provision.steps.system.log_lines import Source

SOURCES = (Source("access", "file", f"{LOGS}/access.log"), Source("error", "file", f"{LOGS}/error.log"))
