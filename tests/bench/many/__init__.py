"""Many hosts, so that the controller alone is measured: `make bench-many`.

One real host of the lab answers on 127.0.0.1, 127.0.0.2, ... of its own network namespace, in which the controller
runs too. Its sshd gives the key that the controller has there one program, which answers what a converged host
answered to the very same script.
"""
