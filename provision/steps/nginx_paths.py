"""Where a host has our nginx, and where it may have another."""

UNIT = "provision-nginx.service"
ROOT = "/opt/provision/nginx"
CURRENT = f"{ROOT}/current"
CONFIG = "/etc/provision/nginx"
RUN = "/run/provision-nginx"
PID = f"{RUN}/nginx.pid"
LOGS = "/var/log/provision-nginx"
CACHE = "/var/cache/provision-nginx"
LINK = "/usr/local/sbin/nginx"
"""Our link on PATH, where the host has no other nginx."""
PROGRAMS = (LINK, "/usr/local/bin/nginx", "/usr/sbin/nginx", "/usr/bin/nginx")
"""The places on PATH of a program that our link would hide or replace."""
