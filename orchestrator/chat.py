"""`ringonce chat`: talk to the agent in the terminal. Orders go to whatever workers are running."""

from typing import Final

from rich.console import Console
from rich.text import Text

from orchestrator.keyboard import Keyboard
from orchestrator.workflow_manager import StaleReply, ThreadBusy, Turn, open_workflow_manager
from shared import keys
from shared.desk import OrderNotAccepted
from shared.ledger import Ledger
from shared.redis_pool import ledger_client
from shared.settings import Settings

GREETING: Final = "What should be done by phone? (an empty line ends the chat)"
NO_WORKER: Final = "No worker is running, so orders wait: start one with `ringonce worker`."


async def talk(settings: Settings) -> int:
    """Converse until the person has nothing more to say; return the exit code."""
    console = Console(highlight=False)
    redis = ledger_client(str(settings.redis_url), patience_s=settings.store_patience_s)
    ledger = Ledger(redis, durability=settings.submit_durability)
    try:
        await ledger.check_durability()
        async with open_workflow_manager(settings, ledger, redis) as manager:
            if not [key async for key in redis.scan_iter(match=keys.worker("*"), count=1000)]:
                console.print(NO_WORKER, style="yellow")
            console.print(GREETING, style="dim")
            thread_id = reply_to = None
            keyboard = Keyboard()
            while said := await keyboard.line("you> "):
                try:
                    if thread_id is None:
                        turn = await manager.start(said, owner="local")
                    else:
                        turn = await manager.continue_(thread_id, said, reply_to=reply_to)
                except (OrderNotAccepted, StaleReply, ThreadBusy) as error:
                    console.print(str(error), style="yellow")
                    # A server on the same files may have moved the conversation on meanwhile.
                    seen: Turn | None = await manager.look_up(thread_id) if thread_id else None
                    if not isinstance(error, StaleReply) or seen is None:
                        continue
                    turn = seen
                thread_id, reply_to = turn.thread_id, turn.reply_to
                console.print(Text.assemble(("ringonce> ", "bold"), turn.text))
    finally:
        await redis.aclose()
    return 0
