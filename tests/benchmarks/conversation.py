"""Leg `conversation`: from a person's yes to the call_sid, through the real graph."""

from pathlib import Path
from time import perf_counter
from typing import Any, Final

from orchestrator.workflow_manager import open_workflow_manager
from shared.settings import Settings
from tests.benchmarks.contenders import check
from tests.benchmarks.readings import spread
from tests.benchmarks.scale import Scale
from tests.benchmarks.stage import stage

TASK: Final = "Order a large pepperoni pizza from Luigi's at +1 202 555 0123"


async def conversation(scale: Scale, folder: Path) -> dict[str, Any]:
    """One conversation at a time, its checkpoints written through to the disk, two workers."""
    async with stage(folder) as on:
        on.ours.grow_to(2)
        settings = Settings(redis_url=on.store, data_dir=folder)
        async with open_workflow_manager(settings, on.ledger, on.ledger.redis) as manager:
            took_ms, sids = [], []
            for _ in range(scale.conversations):
                turn = await manager.start(TASK, owner="bench")
                began = perf_counter()
                turn = await manager.continue_(turn.thread_id, "yes", reply_to=turn.reply_to)
                took_ms.append((perf_counter() - began) * 1000)
                sids.append(str(turn.call_sid))
        check("conversation", scale.conversations, sids, (await on.tally())["orders"])
    return {"confirmation_to_call_sid_ms": {"n": scale.conversations, **spread(took_ms)}}
