"""The parts of the GPU suite: each a function from a context to rows, run as a process of its own by gpu_suite.py."""
