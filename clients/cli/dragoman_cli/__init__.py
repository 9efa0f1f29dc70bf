"""The `dragoman` command: composes the server's parts, manages keys and models, and chats."""
