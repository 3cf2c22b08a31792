"""Server-rendered pages: the front page and the API reference, and what the console builds on."""
