"""What rsync starts as its remote shell: it hands its stdin and stdout to the process that started rsync.

Usage: relay.py DESCRIPTOR HOST COMMAND…; the descriptor is a Unix socket that was inherited. What goes
over it are those two and the command; who has them moves the bytes over the connection that is open. What
comes back is the command's exit status, one byte: rsync tells some errors by that alone.
"""

import _socket  # what socket is made of: it loads in half the time, and rsync waits for it
import os
import sys

line = _socket.socket(fileno=int(sys.argv[1]))
words = b"\0".join(os.fsencode(word) for word in sys.argv[3:])
line.sendmsg([words], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(end.to_bytes(4, sys.byteorder) for end in (0, 1)))])
nothing = os.open(os.devnull, os.O_RDWR)
os.dup2(nothing, 0)  # rsync is to hear the end when the other process closes them
os.dup2(nothing, 1)
status = line.recv(1)
sys.exit(status[0] if status else 255)
