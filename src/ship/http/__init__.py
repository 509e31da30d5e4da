"""HTTP/1.1 and WebSocket servers on the sockets of Ship. Routes live in the folders of their nouns."""
