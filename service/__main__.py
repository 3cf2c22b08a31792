"""``python -m service`` is ``firstopen``."""

from service.cli import main

main()
