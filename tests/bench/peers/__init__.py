"""`provision` against its peers, on the same hosts, doing the same job: `make bench`."""
