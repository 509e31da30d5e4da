"""What runs in the process of a kernel: the standard library and IPython, nothing of Ship or Bay."""
