"""The privileged collector: answers a table of questions about processes and judges nothing."""
