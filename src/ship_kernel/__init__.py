"""The code in a kernel's process: the standard library and IPython, nothing of Ship or Bay."""
