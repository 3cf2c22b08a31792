"""``python -m service`` is ``firstopen``."""

from service.cli.main import main

main()
