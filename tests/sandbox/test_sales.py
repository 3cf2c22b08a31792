"""What sales do to a link's counters; everything that `/track/sale` answers is in the contract suite."""

from tests.sandbox.support import Sandbox


async def test_counters_of_a_link(sandbox: Sandbox) -> None:
    """Every sale counts, in US cents; only a customer's first is a conversion."""
    await sandbox.lead((await sandbox.open())["clickId"])
    await sandbox.sale(amount=700, currency="EUR")
    await sandbox.sale(amount=30)
    await sandbox.sale(amount=0)
    link = await sandbox.link()
    assert (link["sales"], link["saleAmount"], link["conversions"]) == (2, 800, 1)


async def test_a_repeated_invoice_counts_once(sandbox: Sandbox) -> None:
    """The first answer is repeated, and the counters stay."""
    await sandbox.lead((await sandbox.open())["clickId"])
    first, again = [(await sandbox.sale(amount=700, invoiceId="in_1")).json() for _ in range(2)]
    assert again == first
    assert (await sandbox.link())["sales"] == 1
