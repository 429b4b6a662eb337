"""What a stretch of work cost a Redis server, as the server itself counted it.

Commands are the sum of `calls` in INFO commandstats, which has those that scripts call too, in
every version (`total_commands_processed` has them in some).

Round trips are INFO's `total_reads_processed`: how often the server found something to read on a
client's connection. redis-py writes a command, a script call or a whole pipeline in one piece and
then waits for the answer, so one read is one trip. A proxy that counts would slow down what is
counted, and commandstats can't tell a command that a client sent from one that a script called.
The count errs upwards: the end of a connection is read too, and a request of more than 16 kB in
several pieces. Orders that the ledger puts into one call share its trip; an order that comes alone
shares with nobody, which is what the figures ending in `_idle` show.
"""

from dataclasses import dataclass
from typing import Self

from redis.asyncio import Redis


@dataclass(frozen=True)
class Counters:
    """What the server has done since it started, or in a stretch, or for one order of many."""

    commands: float
    round_trips: float

    @classmethod
    async def read(cls, redis: Redis) -> Self:
        """Ask the server."""
        async with redis.pipeline(transaction=False) as pipe:
            pipe.info("commandstats")
            pipe.info("stats")
            commands, stats = await pipe.execute()
        calls = sum(told["calls"] for told in commands.values())
        return cls(calls, stats["total_reads_processed"])

    def since(self, earlier: "Counters", *, asked: int = 0) -> "Counters":
        """Return what was done in between, without the reading itself.

        `asked` is how many single commands the benchmark sent only to see how things stand.
        """
        return Counters(
            self.commands - earlier.commands - 2 - asked,
            self.round_trips - earlier.round_trips - 1 - asked,
        )

    def per(self, orders: int) -> "Counters":
        """Return the share of one order."""
        return Counters(round(self.commands / orders, 2), round(self.round_trips / orders, 2))
