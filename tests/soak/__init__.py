"""``make soak``: ten minutes of mixed traffic while Dub fails, and PostgreSQL and the replicas restart.

What can go wrong, in the service:
- something is acknowledged and lost, or done twice: a lead, a webhook, a click;
- somebody has to wait, or gets an error: an open in a bad minute, anybody once it is over;
- something is left behind by each fault: memory, queued entries, connections, time.
"""
