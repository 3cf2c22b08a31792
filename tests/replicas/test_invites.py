"""Two replicas create the short link of one install at the same moment: there is one link."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.postgres import Postgres
from tests.replicas.processes import CONFIG, Replica, two_replicas

TEMPLATE = """
[[apps.acme.link_templates]]
name = "invite"
url = "https://acme.com/invite/{from}"
parameters = { from = 20 }
per_install_per_day = 3
"""


BEN = "install-ben"


def create(on: Replica, who: str, install: str = "install-anna") -> tuple[int, str]:
    body = {"template": "invite", "parameters": {"from": who}, "installId": install, "budgetMs": 10_000}
    reply = on.http.post("/v1/links", json=body)
    return reply.status_code, reply.json().get("id", "")


def test_one_link_for_a_hundred_requests_to_two_replicas(tmp_path: Path, postgres: Postgres) -> None:
    """Each replica calls Dub at most once, and Dub has one link; the quota counts over both replicas."""
    with (
        two_replicas(tmp_path, postgres.database(), config=CONFIG + TEMPLATE) as (here, there, dub, _),
        ThreadPoolExecutor(32) as threads,
    ):
        replies = list(threads.map(lambda number: create((here, there)[number % 2], "anna"), range(100)))
        assert {status for status, _ in replies} == {200}
        assert len({link for _, link in replies}) == 1
        calls = [call["status"] for call in dub.calls("/links")]
        assert calls in ([200], [200, 409])
        statuses = [create((here, there)[number % 2], f"friend-{number}")[0] for number in range(4)]
        assert statuses == [200, 200, 429, 429]
        some, others = threads.map(
            lambda on: [create(on, f"a{number}", BEN)[0] for number in range(on is there, 20, 2)],
            (here, there),
        )
        many = some + others
        # A replica may count before the other one's request of the same moment is committed.
        assert 3 <= many.count(200) <= 3 + 1
        assert set(many) == {200, 429}
