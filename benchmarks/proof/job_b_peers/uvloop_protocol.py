"""Syslog messages to JSON lines by a plain asyncio protocol on uvloop: ``PORT OUT RECEIVE_BUFFER``."""

import asyncio
import socket
import sys

import uvloop

SO_RCVBUFFORCE = 33
FLUSH_LINES, FLUSH_SECONDS = 1000, 0.2


class Syslog(asyncio.DatagramProtocol):
    def __init__(self, out):
        self.out = out
        self.lines = []

    def datagram_received(self, content, address):
        head, _, rest = content.partition(b">")
        try:
            _, _, host, app, pid, _, _, message = rest.split(b" ", 7)
        except ValueError:
            return
        self.lines.append(
            b'{"pri":"%b","host":"%b","app":"%b","pid":"%b","msg":"%b"}\n' % (head[1:], host, app, pid, message)
        )
        if len(self.lines) >= FLUSH_LINES:
            self.flush()

    def flush(self):
        self.out.write(b"".join(self.lines))
        self.lines.clear()


async def main(port, path, receive_buffer):
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
    except PermissionError:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    bound.bind(("127.0.0.1", port))
    with open(path, "ab", buffering=0) as out:
        _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Syslog(out), sock=bound)
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            protocol.flush()


uvloop.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
