"""Services of a sandbox: commands that Ship keeps running. Here the word means this noun, and not a layer."""
