"""A discrete-event simulation of 10 000 scenes on a cluster: where the driver or the shared disk becomes the limit.

python tests/bench/cluster.py [--read S --compute S --write S] [--scenes 10000]

The stage times are those that batch.py measures on one worker. A worker reads, computes and writes one scene after the
other, as in gld_core/jobs/cluster.py. Reading and writing share the disk: each of n workers at it gets the n-th part of
what it can move. The driver hands out one scene at a time. Workers fail at random times: the scene is begun again by a
worker that starts anew, at most twice, then it counts as failed.
"""

import argparse
import heapq
import random
from dataclasses import dataclass

RETRIES = 2


@dataclass
class Worker:
    scene: int = -1
    tries: int = 0
    stage: str = "waiting"
    left: float = 0.0


def simulate(
    scenes: int,
    workers: int,
    read: float,
    compute: float,
    write: float,
    handing: float,
    disk: float,
    mean_failure: float,
    start: float,
    seed: int = 0,
) -> dict[str, float]:
    """Seconds until all is done, and shares of time. disk: as many times as fast as one worker uses it alone.
    mean_failure: seconds between two failures of a worker. start: seconds of a worker's start."""
    rng = random.Random(seed)
    waiting = [(scene, 0) for scene in range(scenes)]
    waiting.reverse()
    now, driver_free, driver_busy, disk_busy, failed, failures = 0.0, 0.0, 0.0, 0.0, 0, 0
    team = [Worker(stage="starting") for _ in range(workers)]
    events: list[tuple[float, int, str]] = []
    for number in range(workers):
        heapq.heappush(events, (start, number, "started"))
        heapq.heappush(events, (rng.expovariate(1 / mean_failure), number, "fails"))
    open_scenes = scenes

    def at_disk() -> list[Worker]:
        return [worker for worker in team if worker.stage in ("read", "write")]

    def hand_out(number: int) -> None:
        nonlocal driver_free, driver_busy
        if not waiting:
            team[number].stage = "waiting"
            return
        worker = team[number]
        worker.scene, worker.tries = waiting.pop()
        worker.stage = "handed"
        driver_free = max(driver_free, now) + handing
        driver_busy += handing
        heapq.heappush(events, (driver_free, number, f"handed {worker.scene} {worker.tries}"))

    while open_scenes:
        users = at_disk()
        speed = min(1.0, disk / len(users)) if users else 1.0
        moving = min(users, key=lambda worker: worker.left) if users else None
        next_disk = now + moving.left / speed if moving else float("inf")
        next_event = events[0][0] if events else float("inf")
        then = min(next_disk, next_event)
        if users:
            disk_busy += (then - now) * min(1.0, len(users) / disk)
            for worker in users:
                worker.left -= (then - now) * speed
        now = then
        if moving is not None and next_disk <= next_event:
            number = team.index(moving)
            if moving.stage == "read":
                moving.stage = "compute"
                heapq.heappush(events, (now + compute, number, f"computed {moving.scene} {moving.tries}"))
            else:
                open_scenes -= 1
                hand_out(number)
            continue
        _, number, what = heapq.heappop(events)
        worker = team[number]
        if what == "fails":
            failures += 1
            if worker.stage not in ("waiting", "starting"):
                if worker.tries < RETRIES:
                    waiting.append((worker.scene, worker.tries + 1))
                else:
                    open_scenes -= 1
                    failed += 1
            worker.stage, worker.scene = "starting", -1
            heapq.heappush(events, (now + start, number, "started"))
            heapq.heappush(events, (now + rng.expovariate(1 / mean_failure), number, "fails"))
        elif what == "started" and worker.stage == "starting":
            hand_out(number)
        elif what == f"handed {worker.scene} {worker.tries}" and worker.stage == "handed":
            worker.stage, worker.left = "read", read
        elif what == f"computed {worker.scene} {worker.tries}" and worker.stage == "compute":
            worker.stage, worker.left = "write", write
        for other in range(workers):
            if waiting and team[other].stage == "waiting":
                hand_out(other)
    return {
        "hours": now / 3600,
        "driver": driver_busy / now,
        "disk": disk_busy / now,
        "failures": failures,
        "failed": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--read", type=float, required=True, help="seconds to read a scene")
    parser.add_argument("--compute", type=float, required=True, help="seconds to compute it")
    parser.add_argument("--write", type=float, required=True, help="seconds to write it")
    parser.add_argument("--handing", type=float, default=0.002, help="seconds of the driver for a scene")
    parser.add_argument("--disk", type=float, default=8, help="workers that the shared disk serves at full speed")
    parser.add_argument("--failure", type=float, default=6 * 3600, help="mean seconds between failures of a worker")
    parser.add_argument("--start", type=float, default=20, help="seconds of a worker's start")
    args = parser.parse_args()
    print("| workers | hours | times one worker | driver busy | disk busy | workers died | scenes failed |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    times = (args.read, args.compute, args.write, args.handing, args.disk, args.failure, args.start)
    alone = 0.0
    for workers in (1, 8, 64, 256):
        found = simulate(args.scenes, workers, *times)
        alone = alone or found["hours"]
        print(
            f"| {workers} | {found['hours']:.2f} | {alone / found['hours']:.1f} | {found['driver']:.1%} "
            f"| {found['disk']:.1%} | {found['failures']:.0f} | {found['failed']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
