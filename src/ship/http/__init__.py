"""HTTP/1.1 and WebSocket on the sockets of Ship.

Routes live in the folders of their nouns.
"""
