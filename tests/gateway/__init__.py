"""The gateway of a balancer on a real nginx with the real JavaScript module, in front of recording servers."""
