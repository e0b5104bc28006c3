"""The ``sharedbb`` command. Importing this room costs little: every command imports what it needs when it runs."""
