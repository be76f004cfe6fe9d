"""The lab on virtual machines with kernels of their own: `make test-vm` runs the parts and writes docs/vm.md."""
