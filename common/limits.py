"""Every bound of the wire, with its unit and its reason. One rule: checked before memory or time is spent.

What an administrator may change is a default here and a key in the configuration; what is fixed by the
schema (proto/ipc.proto) or by the kernel is a plain constant.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# ------------------------------------------------------------------------------------------------ frames

FRAME_HEADER_BYTES: Final = 8
"""u32 length and u32 CRC-32C, both little-endian."""

DEFAULT_MAX_FRAME_SIZE: Final = 1 * MIB
"""Bytes of payload, the same both ways. The reference's value: some 3,000 plain records in one frame."""

MIN_MAX_FRAME_SIZE: Final = 256 * KIB
"""Bytes. Below it one record with 32 KiB of arguments, each byte escaped to four, might not fit."""

MAX_MAX_FRAME_SIZE: Final = 64 * MIB
"""Bytes. A frame is held whole in memory, per connection, by root."""

STREAM_FRAME_DIVISOR: Final = 4
"""Streamed frames stay under max_frame_size / 4: small enough to interleave with other answers."""

STREAM_FRAME_BYTES: Final = 128 * KIB
"""Bytes of records after which a streamed frame is sent even where a quarter of the limit is more: the
client decodes one while the collector makes the next, and a reader that stops costs no more than a few."""

FRAME_DEADLINE_S: Final = 30.0
"""Seconds from a frame's first byte to its last; one that trickles in longer is an attack or a dead peer."""

STALL_LIMIT_S: Final = 30.0
"""Seconds in which a peer takes nothing while we have something to write, before it is closed."""

# ----------------------------------------------------------------------------------------------- channel

WRITE_HIGH_WATER_BYTES: Final = 64 * KIB
"""Above it `Channel.send` waits, with at most one frame in the buffer: a stopped reader costs a frame."""

WRITE_LOW_WATER_BYTES: Final = 16 * KIB
"""Below it `Channel.send` goes on. A quarter of the high mark, so that the socket never runs dry."""

READ_QUEUE_FRAMES: Final = 64
"""Received frames waiting for their consumer; then the socket is no longer read (the peer's write blocks)."""

READ_QUEUE_BYTES: Final = 1 * MIB
"""The same in bytes. One frame may be larger where max_frame_size is; then it is alone in the queue."""

LISTEN_BACKLOG: Final = 1024
"""A full backlog makes connect(2) fail at once with EAGAIN, so it has to hold a burst of clients."""

# ----------------------------------------------------------------------------------------------- fields

MAX_TASK_ID_BYTES: Final = 128
MAX_METADATA_BYTES: Final = 4096
MAX_PROCESS_NAMES: Final = 4096
MAX_PROCESS_NAME_BYTES: Final = 256
MAX_PIDS: Final = 4096
MAX_PID: Final = 4_194_304
"""PID_MAX_LIMIT of the kernel (include/linux/threads.h), 2^22."""
MAX_PATTERN_BYTES: Final = 1024
MAX_PATH_BYTES: Final = 4096
"""PATH_MAX, the terminating NUL included."""
MAX_ALGORITHM_BYTES: Final = 32
MAX_DIGESTS: Final = 8
MAX_EVENT_KINDS: Final = 16
MAX_CLIENT_ID_BYTES: Final = 128
MAX_CLIENT_VERSION_BYTES: Final = 128
MAX_REQUESTED_DOMAINS: Final = 16
MAX_DEADLINE_MS: Final = 24 * 3600 * 1000
"""A day. Longer is a live stream, which needs none."""
MAX_HASH_BUDGET_MS: Final = 10 * 60 * 1000
MAX_COMMAND_LINE_BYTES: Final = 32 * KIB
"""Raw bytes of all arguments together; longer ones are cut at the end, marked, with the full length."""
MAX_ERROR_MESSAGE_BYTES: Final = 4096
"""A sentence for a person, never a dump."""

# ------------------------------------------------------------------------------------------------- work

DEFAULT_TASK_DEADLINE_S: Final = 30.0
"""Seconds from receipt, queueing included, for a task that names none."""
MAX_CONNECTIONS: Final = 256
MAX_CONNECTIONS_PER_UID: Final = 64
MAX_TASKS_PER_CONNECTION: Final = 16
MAX_TASKS_IN_FLIGHT: Final = 64
CLIENT_MAX_IN_FLIGHT: Final = 1024
"""Tasks a client keeps waiting: far above what a server takes, so that only a leak reaches it."""
SHUTDOWN_GRACE_S: Final = 4.0
"""Seconds for streams to end after SIGTERM; the whole exit is promised within 5."""

PROTOCOL_VERSION: Final = 1
LEGACY_NEGOTIATION_MARKER: Final = "capability_negotiation"
"""The reference asks for capabilities by an enumerate task with this `metadata`."""

# ----------------------------------------------------------------------------------------------- client

CLIENT_CONNECT_TIMEOUT_S: Final = 5.0
"""Seconds to connect and to negotiate; a server that is up does both within milliseconds."""
CLIENT_DEADLINE_GRACE_S: Final = 2.0
"""Seconds a client waits beyond the deadline it gave: the server's own DEADLINE answer is on its way then."""
CLIENT_CANCEL_TIMEOUT_S: Final = 2.0
"""Seconds a client waits for the answer to its CANCEL_TASK."""
CLIENT_QUEUE_FRAMES: Final = 4
"""Frames of one task that wait for its consumer; then the socket is not read. A quarter of a frame each."""
CLIENT_MAX_ANSWER_BYTES: Final = 256 * MIB
"""Bytes of one answer merged in memory: 10,000 processes, each with arguments of 25 KiB."""
CLIENT_FINISHED_IDS: Final = 1024
"""Finished task ids a client remembers, to tell a late result from one it never asked for."""
RECONNECT_INITIAL_S: Final = 0.1
"""Seconds; upper bound of the wait after the first failure. It doubles with each further one."""
RECONNECT_MAX_S: Final = 5.0
"""Seconds; no wait between attempts is longer. Trying a local socket costs microseconds."""
BREAKER_FAILURES: Final = 5
"""Failures in a row after which no attempt is made for BREAKER_COOL_DOWN_S."""
BREAKER_COOL_DOWN_S: Final = 5.0
"""Seconds an open breaker allows nothing; then one attempt decides."""

# ----------------------------------------------------------------------------------------------- hashes

HASH_WORKERS: Final = 2
"""Threads that read and digest files. hashlib lets go of the interpreter lock, so two use two cores; more
would take the processors away from what the machine is for."""
HASH_CHUNK_BYTES: Final = 256 * KIB
"""Read at a time, per worker. Small enough for the second-level cache, so that further digests of the same
pass do not fetch it again; larger chunks gain a few percent with one digest alone."""
HASH_MAX_FILE_BYTES: Final = 512 * MIB
"""Larger executables are not read: a sparse file of 200 GB costs its maker nothing and us a minute."""
HASH_FILE_DEADLINE_S: Final = 20.0
"""Seconds for one file, checked between chunks: 512 MiB from a disk of 27 MB/s, and a task with the default
deadline of 30 s still has time to say that it was not enough."""
HASH_BUDGET_S: Final = 5.0
"""Seconds a sweep waits for cold hashes: the first answer comes in time, the next sweeps fill in the rest."""
HASH_CACHE_ENTRIES: Final = 16 * 1024
"""Files whose digests are remembered, the longest unused forgotten first; about 1 KiB each."""
HASH_SETTLE_NS: Final = 2_000_000_000
"""A ctime younger than this when reading begins proves nothing later, so such a digest is not remembered:
a second write within the resolution of the file system's time stamps (up to 2 s) leaves no trace in it."""
HASH_QUEUE_FILES: Final = 8 * 1024
"""Distinct files waiting for a worker; one more is PENDING, and asked for again in the next sweep."""
HASH_ALTERNATIVES: Final = 8
"""Processes of one image that are tried in turn when the first ended before its image was opened."""
HASH_CLOSE_GRACE_S: Final = 1.0
"""Seconds that ending waits for reads under way; one that hangs in the kernel is left behind."""
EXAMINE_WINDOW: Final = 64
"""Running images examined at once by one task: each holds a descriptor, of which a process has 1,024."""
MAX_RUNNING_PIDS: Final = 1024
"""Processes listed in one ExecutableReport, lowest pids first; the number of all is in its error_message."""
MAX_SYMBOLIC_LINKS: Final = 40
"""Followed while one path is resolved; the kernel's own bound (MAXSYMLINKS, path_resolution(7))."""
KNOWN_PATHS: Final = 1024
"""Paths, and answers about the files they lead to, that are remembered between questions, the first to come
forgotten first; about 1 KiB each, 10 where the path is as long as can be."""
MAX_PATH_DEPTH: Final = 128
"""Directories of a path, each of which holds a descriptor while the path is resolved."""

# ----------------------------------------------------------------------------------------------- agent

TABLE_PROCESSES: Final = 64 * KIB
"""Processes in a table fed by events: twice what pid_max allows by default (32,768); about 1 KiB each."""
TABLE_ENDED: Final = 4 * KIB
"""Ended processes a table remembers, the oldest forgotten first: a few seconds of the busiest shell."""
BLIND_INTERVALS_KEPT: Final = 256
"""Blind intervals the agent remembers one by one; of all it keeps totals, and the journal has each."""
EVENT_SETTLE_S: Final = 0.5
"""Seconds after a sweep for events under way to arrive before both are compared: ten times the delay within
which events are promised to be delivered."""
EVENT_SLACK_S: Final = 5.0
"""Seconds before a connection was lost in which events may have been on their way. Longer without an event
was quiet: procmond would have said otherwise."""
RESYNC_EVERY_S: Final = 1.0
"""Seconds from the start of a sweep to that of one asked for by a gap: gaps come in bursts."""
MAX_REPAIRS_LISTED: Final = 20
"""Processes of each kind named in one log line about repairs; all are counted."""
EXEC_ENTRY_BYTES: Final = 16 * KIB
"""Encoded bytes of all arguments in one exec_seen entry: with the other fields it stays below the 48 KiB at
which journald cuts a line (LineMax=)."""
EXEC_TEXT_BYTES: Final = 4 * KIB
"""Encoded bytes of each other text of such an entry."""

# --------------------------------------------------------------------------------------------- control

CONTROL_MAX_FRAME_SIZE: Final = 256 * KIB
"""Bytes. A status with BLIND_INTERVALS_KEPT intervals has about a tenth."""
CONTROL_CONNECTIONS: Final = 16
"""Connections to the agent at once; one more is closed. A status takes milliseconds."""
CONTROL_TIMEOUT_S: Final = 5.0
"""Seconds a peer of the control socket has for each request, and to take each answer."""
CONTROL_DEFAULT_INTERVALS: Final = 16
"""Blind intervals in a status whose request names no number."""
