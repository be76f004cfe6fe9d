"""Many hosts, so that only the controller is measured: `make bench-many`.

One real host of the lab answers on 127.0.0.1, 127.0.0.2, ... of its own network namespace, in which the controller
runs too. Its sshd gives the controller's key a single program, which sends the answer that a converged host gave to the
same script.
"""
