"""Whether this kernel has HTB, tried in a network namespace of its own, which ends with this process.

``python -m streamspec.actuators.htb_trial``: exit 0, or 1 with the reason on standard output. Without root a
user namespace gives the right to try.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def _leave_the_host() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET):
        if libc.unshare(flags) == 0:
            return ""
    return f"no network namespace to try it in: {os.strerror(ctypes.get_errno())}"


async def _try() -> str:
    from pyroute2 import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    from streamspec.actuators import htb

    ipr: Any
    async with AsyncIPRoute() as ipr:
        index = await htb.interface_index(ipr, "lo")
        try:
            await htb.build(ipr, index or 1, 1e6)
        except NetlinkError as error:
            return f"the kernel has no HTB or pfifo: {os.strerror(error.code)}"
    return ""


def main() -> int:
    """See the module."""
    problem = _leave_the_host() or asyncio.run(_try())
    print(problem)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
