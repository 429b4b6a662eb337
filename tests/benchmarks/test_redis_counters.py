"""The counters that the benchmarks quote count what they say."""

from redis.asyncio import Redis

from tests.benchmarks.redis_counters import Counters


async def test_commands_inside_a_script_count_as_commands_and_the_script_as_one_round_trip(
    redis: Redis,
):
    await redis.eval("return 1", 0)  # type: ignore[misc]
    before = await Counters.read(redis)
    for _ in range(10):
        await redis.eval("redis.call('SET', KEYS[1], 1) return redis.call('GET', KEYS[1])", 1, "k")  # type: ignore[misc]
    spent = (await Counters.read(redis)).since(before)
    assert spent == Counters(commands=30, round_trips=10)


async def test_a_pipeline_is_one_round_trip_however_many_commands_it_carries(redis: Redis):
    before = await Counters.read(redis)
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(50):
            pipe.set(f"k{number}", number)
        await pipe.execute()
    spent = (await Counters.read(redis)).since(before)
    assert spent == Counters(commands=50, round_trips=1)


async def test_nothing_done_is_nothing_counted_and_what_the_benchmark_asked_is_left_out(
    redis: Redis,
):
    before = await Counters.read(redis)
    for _ in range(7):
        await redis.exists("k")
    spent = (await Counters.read(redis)).since(before, asked=7)
    assert spent == Counters(commands=0, round_trips=0)
