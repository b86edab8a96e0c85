"""Ways that take turns, each in a process of its own: what one changes for its whole process (memory, caches) cannot help another.

    turns = interleave_apart({"reference": (maker, ("preset", 1)), …}, rounds=7)    # then as harness.interleave's

A maker is a function of a module: it builds the work and returns what does it once. FLOP and memory are those of the way's own
process. Processes wait for each other, so two ways never run at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from flops import flop_counter
from harness import CEILING, Turns, cost_of, product, synchronise

Maker = Callable[..., Callable[[], object]]


def interleave_apart(
    makers: Mapping[str, tuple[Maker, tuple[Any, ...]]],
    *,
    rounds: int,
    warmup: int = 1,
    precision: Mapping[str, str] | str = "fp32",
    threads: int = 1,
    count: bool = True,
    device: str = "cpu",
) -> Turns:
    """As `harness.interleave`: CPU time with one thread on a CPU, else wall time."""
    kinds = dict.fromkeys(makers, precision) if isinstance(precision, str) else dict(precision)
    torch.set_num_threads(threads)
    place = torch.device(device)
    clock = "cpu" if threads == 1 and place.type == "cpu" else "wall"
    now = time.process_time if clock == "cpu" else time.perf_counter
    ceilings = {f"{CEILING} {kind}": product(kind, place) for kind in dict.fromkeys(kinds.values())}
    turns = Turns({name: [] for name in (*makers, *ceilings)}, clock, precision=kinds)
    context = get_context("spawn")
    workers = {}
    for name, (maker, arguments) in makers.items():
        mine, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, maker, arguments, threads, warmup, count, device), daemon=True
        )
        process.start()
        theirs.close()
        workers[name] = (process, mine)
        gflop, mib = mine.recv()
        if count:
            turns.gflop[name], turns.mib[name] = gflop, mib
    for name, way in ceilings.items():
        way()
        with flop_counter() as counter:
            way()
        turns.gflop[name] = counter.get_total_flops() / 1e9
    for _ in range(rounds):
        for name, (_, mine) in workers.items():
            mine.send(True)
            turns.seconds[name].append(mine.recv())
        for name, way in ceilings.items():
            synchronise(place)
            start = now()
            way()
            synchronise(place)
            turns.seconds[name].append(now() - start)
    for process, mine in workers.values():
        mine.send(False)
        process.join()
    return turns


def _serve(
    pipe: Connection, maker: Maker, arguments: tuple[Any, ...], threads: int, warmup: int, count: bool, device: str
) -> None:
    torch.set_num_threads(threads)
    place = torch.device(device)
    now = time.process_time if threads == 1 and place.type == "cpu" else time.perf_counter
    way = maker(*arguments)
    for _ in range(warmup):
        way()
    pipe.send(cost_of(way, place) if count else (0.0, 0.0))
    while pipe.recv():
        synchronise(place)
        start = now()
        way()
        synchronise(place)
        pipe.send(now() - start)
