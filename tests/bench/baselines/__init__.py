"""What firstopen is measured against, under the same uvicorn settings as its own.

None of them checks a key, bounds a body or picks a screen. Each is a module of its own, so that none
carries another's imports: a bigger heap is a slower garbage collector.
"""
