"""HTTP routes, one module for each noun: parse, one service call, reply."""
