"""Statuses of fleets, as the partition actor tells them."""

EPOCH = (217_000_000_000, 17)


def worker(slot, fleet="billers", **said):
    return {
        "slot": slot,
        "number": slot + 1,
        "member_id": f"{fleet}/{slot}",
        "phase": "serving",
        "seconds": 4000.0,
        "version": 1,
        "node": "3f2a91c04b",
        "pid": 12345 + slot,
        "epoch": EPOCH,
        "is_settled": True,
        "load": None,
        "restarts": 0,
        "reason": "",
        **said,
    }


def fleet(name="billers", group="pollers", workers=2, **said):
    """A fleet of so many workers, or of these."""
    if isinstance(workers, int):
        workers = [worker(slot, name) for slot in range(workers)]
    return {
        "name": name,
        "group": group,
        "size": len(workers),
        "per_node": None,
        "ready": True,
        "serving": sum(each["phase"] == "serving" for each in workers),
        "version": 1,
        "updating": False,
        "update_failed": "",
        "cannot_start": "",
        "stopping": False,
        "over": False,
        "needed": None,
        "restarts": sum(each["restarts"] for each in workers),
        "workers": workers,
        "all_workers": len(workers),
        "waiting": [],
        "events": [],
        "seconds_ago": 0.4,
        **said,
    }
