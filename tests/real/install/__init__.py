"""Installs real programs for `make test-real`: Ollama from its Go module, a small model, nginx, clients.

Versions and hashes are pinned here and in `tests/real/pins`. No address of an index is written anywhere: the go
program, pip and apt use the configuration of the machine. An installed program stays in a folder below the user's
cache, and a later run takes it from there. A part that cannot be installed ends the run by an `InstallError`.
"""
