"""The common address of several balancers, by keepalived and VRRP."""
