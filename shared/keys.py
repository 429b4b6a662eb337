"""Every Redis key, on one page.

| key                          | type   | holds                                    | written by      | read by               | lives |
|------------------------------|--------|------------------------------------------|-----------------|-----------------------|-------|
| ringonce:order:{id}          | hash   | the record: state, body, every move …    | every script    | every script          | kept  |
| ringonce:result:{id}         | string | the answer as JSON, once there is one    | settle and acts | the waiting graph     | kept  |
| ringonce:orders              | zset   | every order id by the time it came       | submit          | orders list           | kept  |
| ringonce:state:{STATE}       | zset   | ids in that state by the time they moved | every script    | orders list, counts   | kept  |
| ringonce:leases              | zset   | ids being sent by when the lease ends    | claim, renew    | recoverer             | while SENDING |
| ringonce:doubts              | zset   | ids in doubt by when to ask              | settle, recover | recoverer             | while IN_DOUBT |
| ringonce:fence:{destination} | set    | ids that may have rung this number       | settle, resolve | claim                 | while unanswered |
| ringonce:call:{call_sid}     | string | the id of the order that this call is    | settle, resolve | recoverer             | kept  |
| ringonce:wakeup              | list   | ids just become due: a hint, may be lost | submit, settle  | workers               | 10,000 at most |
| ringonce:moves               | pubsub | [{order_id, state}, …] as orders move    | every script    | whoever listens       | -     |
| ringonce:parked              | hash   | {order id: the conversation that waits}  | orchestrator    | resumer               | while one waits |
| ringonce:thread:{thread_id}  | string | redis-py's lock on a conversation        | orchestrator    | orchestrator          | seconds |
| ringonce:worker:{name}       | string | arq's health line of one worker          | that worker     | operators, arq tools  | seconds |
| arq:queue                    | zset   | ids by due time: arq's own queue         | submit, settle  | workers, arq tools    | while waiting |
| arq:job:{id}                 | string | arq's envelope: look at order {id}       | submit          | arq tools             | until it ended |

"Kept" is until `RINGONCE_KEEP_ENDED_S` after the end, or until newer ones are too many; the bare
record lives on for `RINGONCE_KEEP_IDS_S`. The names below are the only place where they are spelt. The
scripts are handed them, not the keys of a call: no cluster slots are promised.
"""

from typing import Final

PREFIX: Final = "ringonce:"
QUEUE: Final = "arq:queue"
JOB_PREFIX: Final = "arq:job:"

RECORD_PREFIX: Final = f"{PREFIX}order:"
RESULT_PREFIX: Final = f"{PREFIX}result:"
STATE_PREFIX: Final = f"{PREFIX}state:"
ORDERS: Final = f"{PREFIX}orders"
LEASES: Final = f"{PREFIX}leases"
DOUBTS: Final = f"{PREFIX}doubts"
FENCE_PREFIX: Final = f"{PREFIX}fence:"
CALL_PREFIX: Final = f"{PREFIX}call:"
WAKEUP: Final = f"{PREFIX}wakeup"
MOVES: Final = f"{PREFIX}moves"
PARKED: Final = f"{PREFIX}parked"

SHARED: Final = {
    "queue": QUEUE,
    "wakeup": WAKEUP,
    "leases": LEASES,
    "doubts": DOUBTS,
    "orders": ORDERS,
    "moves": MOVES,
}
"""The keys that all orders share, by the names that the scripts know them by."""

PREFIXES: Final = {
    "record": RECORD_PREFIX,
    "result": RESULT_PREFIX,
    "job": JOB_PREFIX,
    "state": STATE_PREFIX,
    "fence": FENCE_PREFIX,
    "call": CALL_PREFIX,
}
"""What the keys of one thing begin with, likewise."""


def record(order_id: str) -> str:
    """Return the key of the order's record."""
    return f"{RECORD_PREFIX}{order_id}"


def result(order_id: str) -> str:
    """Return the key of the answer that a waiting graph looks for."""
    return f"{RESULT_PREFIX}{order_id}"


def job(order_id: str) -> str:
    """Return the key of arq's envelope."""
    return f"{JOB_PREFIX}{order_id}"


def state(state_name: str) -> str:
    """Return the key of the index of orders in one state."""
    return f"{STATE_PREFIX}{state_name}"


def fence(destination: str) -> str:
    """Return the key of the fence before one destination."""
    return f"{FENCE_PREFIX}{destination}"


def call(call_sid: str) -> str:
    """Return the key that names the order of a call."""
    return f"{CALL_PREFIX}{call_sid}"


def thread(thread_id: str) -> str:
    """Return the key of the lock on one conversation."""
    return f"{PREFIX}thread:{thread_id}"


def worker(name: str) -> str:
    """Return the key under which one worker gives a sign of life."""
    return f"{PREFIX}worker:{name}"
