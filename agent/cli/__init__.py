"""The `daemoneye` command: asks, and prints for people and for programs."""
