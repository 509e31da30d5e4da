"""A terminal emulator: the screen that a program's output leaves, and the bytes that draw it again.

It implements xterm's terminfo entry, and no more. Rejected: pyte, a ready-made model. It takes the private
sequences that editors send today for colours or text, has no second screen, no repetition and no line drawing
in UTF-8, and a few bytes make it raise or work for minutes; the usable rest of it was less than this.
"""
