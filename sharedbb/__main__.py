"""``python -m sharedbb`` is the ``sharedbb`` command."""

from sharedbb.cli.main import main

main()
