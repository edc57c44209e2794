"""A gateway in a process of its own: reserves and settles on an event loop, and says what it was told is done.

    python hammer.py URL SECRET TASKS FOREVER
"""

from __future__ import annotations

import asyncio
import random
import sys

from ownship.store.budgets import OverBudget
from ownship.store.ledger import Outcome
from ownship.store.store import Store


async def main(url: str, secret: str, tasks: int, forever: bool) -> None:
    store = Store(url)
    key = await store.admit(secret)
    print("ready", flush=True)

    async def client() -> None:
        while True:
            try:
                one = await store.reserve(key, "m", "r", 1000, 10)
            except OverBudget:
                return
            print(f"reserved {one.id}", flush=True)
            await asyncio.sleep(random.random() * 0.01)
            cost = random.randrange(1000) if forever else 1000
            await store.settle(one, Outcome(cost=cost, prompt=5, completion=5, model=str(one.id)))
            print(f"settled {one.id} {cost}", flush=True)

    await asyncio.gather(*(client() for _ in range(tasks)))
    store.close()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "forever"))
