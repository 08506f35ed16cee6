"""What goes wrong: each fault is done, lifted again, and counted. A seed decides which, and to whom."""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from botocore.exceptions import ClientError
from sqlalchemy import select

from peelbound.service.database.engine import reading
from peelbound.service.database.tables import AuditRow
from tests.faults.topology import Part, Topology
from tests.faulty_proxy import Fault
from tests.waiting import DEADLINE_SECONDS, until

SKEW_SECONDS = 600

LIFT_SECONDS = 5.0
"""A fault of the store ends after this long, also if few met it."""


MOST_PUT_OFF = 12
"""So many faults without a victim, one after another, are none that chance explains."""


class NobodyThere(Exception):
    """The fault found no victim: it does not count, and another takes its turn."""


class Monkey:
    """Breaks one thing after another in a topology.

    Args:
        topology: what it breaks.
        seed: of its choices.
    """

    def __init__(self, topology: Topology, seed: int) -> None:
        self.topology = topology
        self.random = random.Random(seed)
        self.survived: Counter[str] = Counter()
        self._hand: list[tuple[str, Callable[[], None]]] = []

    def strike(self) -> str:
        """Do the next fault that finds a victim, and lift it; its name. Every fault comes once before any comes again.

        What happens to whole parts comes first, in a short run too: answers of the store that fail are shown by
        tests of their own.
        """
        put_off = []
        while True:
            if not self._hand:
                self._hand = self._shuffled(self.of_the_store()) + self._shuffled(self.of_parts())
            name, fault = self._hand.pop()
            try:
                fault()
            except NobodyThere:
                put_off.append((name, fault))
                assert len(put_off) < MOST_PUT_OFF, f"no victim for {[name for name, _ in put_off]}"
                continue
            self._hand[:0] = put_off
            self.survived[name] += 1
            return name

    def _shuffled(self, faults: dict[str, Callable[[], None]]) -> list[tuple[str, Callable[[], None]]]:
        drawn = list(faults.items())
        self.random.shuffle(drawn)
        return drawn

    def of_the_store(self) -> dict[str, Callable[[], None]]:
        """What its answers can suffer, by name."""
        return {f"the store {fault.value}": partial(self.break_answers, fault) for fault in Fault}

    def of_parts(self) -> dict[str, Callable[[], None]]:
        """What can happen to whole parts, by name."""
        return {
            "an API is killed": self.kill_api,
            "a controller is killed": self.kill_controller,
            "a worker is killed": self.kill_worker,
            "a raylet is killed": self.kill_raylet,
            "Ray's head is killed": self.kill_head,
            "PostgreSQL crashes": self.crash_postgres,
            "the S3 server is killed": self.kill_s3,
            "the S3 server's disk is full": self.fill_disk,
            "a controller freezes beyond its lease": self.freeze_controller,
            "a process starts with a wrong clock": self.skew_clock,
        }

    def kill_api(self) -> None:
        self._kill(self.random.choice(self.topology.apis))

    def kill_controller(self) -> None:
        self._kill(self.random.choice(self.topology.controllers))

    def _kill(self, part: Part) -> None:
        starts = part.starts
        part.signal(signal.SIGKILL)
        until(lambda: part.starts > starts, DEADLINE_SECONDS, f"{part.name} is started again")

    def kill_worker(self) -> None:
        workers = self.topology.ray.workers()
        if not workers:
            raise NobodyThere
        try:
            self.random.choice(workers).kill()
        except psutil.NoSuchProcess as error:
            raise NobodyThere from error

    def kill_raylet(self) -> None:
        """Of a node that is not the head; the orchestrator replaces the node."""
        ray = self.topology.ray
        node = ray.nodes.pop(self.random.randrange(1, len(ray.nodes)))
        node.kill()
        ray.add_node(node.cpus)

    def kill_head(self) -> None:
        """The head's processes; without it the cluster is worth nothing, and the orchestrator starts all of it anew."""
        ray = self.topology.ray
        for pid in (ray.nodes[0].gcs, ray.nodes[0].raylet):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        ray.kill()
        ray.start()

    def crash_postgres(self) -> None:
        self.topology.postgres.crash()
        self.topology.postgres.start()

    def kill_s3(self) -> None:
        self.topology.s3.kill()
        self.topology.s3.start()

    def fill_disk(self) -> None:
        """The server takes all of the disk for the reserve that it must not touch: it refuses what is written."""
        s3 = self.topology.s3
        s3.kill()
        s3.start("-volume.minFreeSpace=100", wait=False)
        client = s3.server.access(attempts=1).client()

        def refused() -> bool:
            try:
                client.put_object(Bucket="results", Key="probe", Body=b"no room")
            except ClientError:
                return True
            except Exception:  # it has not come up yet
                return False
            return False

        until(refused, DEADLINE_SECONDS, "the S3 server refuses to write")
        s3.kill()
        s3.start()

    def freeze_controller(self) -> None:
        """Stop one that holds an audit until another has taken that over, then let it go on and find out."""
        holders = self._holders()
        working = [part for part in self.topology.controllers if part.pid in holders]
        if not working:
            raise NobodyThere
        part = self.random.choice(working)
        part.signal(signal.SIGSTOP)
        try:
            if part.pid not in self._holders():
                raise NobodyThere  # its audit had just ended
            until(lambda: part.pid not in self._holders(), DEADLINE_SECONDS, f"{part.name}'s audit is taken over")
        finally:
            part.signal(signal.SIGCONT)

    def skew_clock(self) -> None:
        """From now on; below the 15 minutes beyond which S3 refuses signatures, and far beyond a lease."""
        part = self.random.choice([*self.topology.apis, *self.topology.controllers])
        skew = self.random.choice((-SKEW_SECONDS, SKEW_SECONDS))
        path = os.pathsep.join([str(Path(__file__).parent / "skewed"), part.environment.get("PYTHONPATH", "")])
        part.environment = {**part.environment, "PYTHONPATH": path, "SKEW_SECONDS": str(skew)}
        self._kill(part)

    def break_answers(self, fault: Fault) -> None:
        """The store has this fault until some connections met it."""
        proxy = self.topology.proxy
        before = proxy.struck
        enough = before + self.random.randrange(3, 12)
        proxy.fault = fault
        with suppress(AssertionError):  # fewer may need the store
            until(lambda: proxy.struck >= enough, LIFT_SECONDS, "the store is used")
        proxy.fault = None
        if proxy.struck == before:
            raise NobodyThere

    def _holders(self) -> set[int]:
        """The processes whose lease holds; an owner's name is host, process and start."""
        with reading(self.topology.engine) as connection:
            owners = connection.scalars(select(AuditRow.lease_owner).where(AuditRow.lease_owner.is_not(None))).all()
        return {int(owner.rsplit("-", 2)[1]) for owner in owners if owner is not None}
