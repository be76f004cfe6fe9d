"""A throw-away fleet of real hosts with simulated GPUs, for trying and testing everything on one machine.

    from provision.lab.lab import Lab
    from provision.lab.spec import Spec

    lab = Lab.up(Spec(name="mine", gpu_hosts=2))
    lab.host("gpu-01").run(["systemctl", "is-system-running"])
    lab.save("fresh")
    lab.restore("gpu-01", "fresh")
    lab.down()

Real: systemd, sshd, sudo, apt with signed repositories, Docker (the distribution's, under Docker's package names; its
buildx and compose plugins are empty packages), the nginx tarball, the image registry. Simulated, and called simulated
in all output: the cards and nvidia-smi, NVIDIA's container toolkit, the Ollama server.

A lab is a fleet, not a security boundary: run nothing on its hosts that you would not run on the machine itself.

A device list keeps root on a host from the machine's disks and other devices (devices.py). Where the kernel takes no
list, the lab does not start.

Tried: Debian 12 as root on kernel 6.18 with cgroup v1, hosts of Debian 13 and 12, with the delay line; Debian 12 on
its own kernel 6.1 with cgroup v2 and netem in an emulated virtual machine, hosts of Debian 13: tests/lab/test_lab.py,
deploy, verify and `lab demo`. docs/vm.md has the results of `make test-vm`.
Not tried: Ubuntu, AppArmor, SELinux, or an architecture besides amd64.
"""
