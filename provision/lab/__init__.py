"""A throw-away fleet of real hosts with simulated GPUs, for trying and testing everything on one machine.

    from provision.lab.lab import Lab
    from provision.lab.spec import Spec

    lab = Lab.up(Spec(name="mine", gpu_hosts=2))
    lab.host("gpu-01").run(["systemctl", "is-system-running"])
    lab.down()

A lab is a fleet, not a security boundary: do not run what you would not run on the machine itself.
"""
