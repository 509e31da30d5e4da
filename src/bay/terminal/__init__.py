"""A model of a terminal: what the bytes of a program leave on its screen, and the bytes that draw that again.

It knows what xterm's description in terminfo promises to programs, and no more. Rejected: pyte, a ready-made model.
It takes the private sequences that editors send today for colours or text, has no second screen, no repetition and no
line drawing in UTF-8, and a few bytes make it raise or work for minutes; what was left to use of it was less than this.
"""
