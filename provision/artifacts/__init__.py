"""Bytes that hosts need, kept on the controller."""
