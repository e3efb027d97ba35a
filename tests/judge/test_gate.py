"""The governor in an event loop: who is let through when, and that a stop reaches everybody."""

import asyncio
import traceback

import pytest

from raypipe.errors import RaypipeError, ServiceError
from raypipe.judge.gate import Gate
from raypipe.judge.governor import Answered, Cost, Governor, Limited, Limits

FREE = Cost(0, 0.0)


def gate_of(concurrency: int = 1, reserve=lambda usd: None, **limits) -> Gate:
    return Gate(Governor(Limits(concurrency, **limits)), "the judge at x", reserve)


def test_first_come_first_served() -> None:
    async def run() -> list[int]:
        gate, order = gate_of(), []
        first = await gate.enter(FREE)

        async def one(number: int) -> None:
            permit = await gate.enter(FREE)
            order.append(number)
            gate.leave(permit, Answered(FREE))

        tasks = [asyncio.create_task(one(number)) for number in range(5)]
        await asyncio.sleep(0)
        gate.leave(first, Answered(FREE))
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]


def test_a_stop_wakes_everybody_who_waits_and_the_first_reason_stays() -> None:
    async def run() -> list[object]:
        gate = gate_of()
        await gate.enter(FREE)
        waiting = [asyncio.create_task(gate.enter(FREE)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.stop(ServiceError("first"))
        gate.stop(ServiceError("second"))
        return await asyncio.gather(*waiting, return_exceptions=True)

    found = asyncio.run(run())
    assert [str(fault) for fault in found] == ["first"] * 3


def test_a_stop_told_to_many_does_not_gather_the_frames_of_each() -> None:
    async def run() -> ServiceError:
        gate, why = gate_of(), ServiceError("over")
        gate.stop(why)
        for _ in range(100):
            with pytest.raises(ServiceError):
                await gate.enter(FREE)
        return why

    assert len(traceback.extract_tb(asyncio.run(run()).__traceback__)) < 10


def test_one_who_gives_up_while_waiting_holds_nobody_up() -> None:
    async def run() -> bool:
        gate = gate_of()
        first = await gate.enter(FREE)
        gone, next_one = (asyncio.create_task(gate.enter(FREE)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        gate.leave(first, Answered(FREE))
        await asyncio.wait_for(next_one, 5)
        return gate.governor.in_flight == 1

    assert asyncio.run(run())


def test_a_wait_ends_by_itself() -> None:
    async def run() -> float:
        gate, clock = gate_of(), asyncio.get_running_loop()
        gate.leave(await gate.enter(FREE), Limited(retry_after_s=0.05))
        told = clock.time()
        await gate.enter(FREE)
        return clock.time() - told

    assert asyncio.run(run()) >= 0.049


def test_money_is_written_down_before_a_call_and_what_cannot_be_is_not_spent() -> None:
    said: list[float] = []

    def reserve(usd: float) -> None:
        if usd > 1.0:
            raise ServiceError("disk full")
        said.append(usd)

    async def run() -> Gate:
        gate = gate_of(3, reserve, max_usd=9.0)
        permit = await gate.enter(Cost(1, 0.75))
        with pytest.raises(RaypipeError, match="disk full"):
            await gate.enter(Cost(1, 0.75))
        gate.leave(permit, Answered(Cost(1, 0.5)))
        return gate

    gate = asyncio.run(run())
    assert said == [0.75, 0.5]
    assert (gate.governor.in_flight, gate.governor.spent_usd) == (0, 0.5)


def test_the_ceiling_says_what_to_do() -> None:
    async def run() -> None:
        await gate_of(max_usd=0.5).enter(Cost(1, 0.75))

    with pytest.raises(ServiceError, match=r"the ceiling of 0\.5 USD") as fault:
        asyncio.run(run())
    assert "judge.max_usd" in fault.value.remedy
    assert fault.value.exit_code == 5
