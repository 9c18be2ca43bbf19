/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
 *
 * What user space receives, byte for byte. One rule: wire.py is the only reader of it; a change here is a
 * change there, and of LAYOUT in both.
 *
 * Everything is in the machine's byte order and without padding of the compiler's. Variable parts follow the
 * structure in the order of their lengths. Directory names are written from the leaf upwards, each with a `/`
 * behind it: `true/bin/usr/` is /usr/bin/true.
 */
#pragma once

enum {
	LAYOUT = 1,
	ARGUMENT_BYTES = 32 * 1024, /* all arguments together; the rest is cut */
	PATH_BYTES = 4096,          /* PATH_MAX */
	INTERPRETER_BYTES = 2048,   /* binfmt_misc takes at most 1,920 */
	CGROUP_BYTES = 2048,
	RECORD_BYTES = 52 * 1024, /* more than the longest record, see _Static_assert */
	RING_BYTES = 2 * 1024 * 1024,
};

enum kind { KIND_FORK = 1, KIND_EXEC, KIND_EXIT, KIND_CREDENTIALS, KIND_TASK, KINDS };

/* SEEN = OUTPUT + OUTSIDE + RING_FULL + RING_BUSY + NO_SCRATCH, for each kind, whenever no program runs. */
enum counter {
	SEEN,
	OUTPUT,     /* handed to the ring */
	OUTSIDE,    /* of a process that has no pid in procmond's namespace */
	RING_FULL,  /* dropped: the reader is too slow */
	RING_BUSY,  /* dropped: refused though there was room */
	NO_SCRATCH, /* dropped: no memory to build the record in */
	COUNTERS = 8,
};

enum flag {
	FLAG_KERNEL_THREAD = 1 << 0,
	FLAG_IMAGE = 1 << 1,         /* the image's facts and path are there */
	FLAG_IMAGE_DELETED = 1 << 2, /* the image has no name any more, or never had one */
	FLAG_PATH_CUT = 1 << 3,      /* the image's path is too long */
	FLAG_CWD = 1 << 4,
	FLAG_CWD_DELETED = 1 << 5,
	FLAG_CWD_CUT = 1 << 6,
	FLAG_CGROUP_CUT = 1 << 7,
	FLAG_ARGUMENTS_UNREADABLE = 1 << 8, /* their pages are not in memory */
	FLAG_SECURE = 1 << 9,               /* the exec raised privileges: AT_SECURE */
	FLAG_INTERPRETED = 1 << 10,         /* invoked path and interpreter differ */
	FLAG_CHANGED = 1 << 11, /* the process changed while it was read: facts may not belong together */
};

struct header {
	u16 kind;
	u16 layout;
	u32 length; /* bytes in all */
	u64 boot_ns;
};

struct identity {
	u64 start_ns; /* in procmond's time namespace */
	u64 parent_start_ns;
	u64 exec_id;
	u64 cgroup_id; /* in the unified hierarchy */
	u32 pid;
	u32 ppid; /* 0: none, or outside */
	u32 uid;
	u32 euid;
	u32 gid;
	u32 egid;
	u32 login_uid;
	u32 session;
	u32 pid_namespace;
	u32 mount_namespace; /* 0: it has given it back */
	u32 flags;
	u32 unused;
	char comm[16];
};

struct image {
	u64 inode;
	s64 size;
	s64 mtime_s;
	s64 ctime_s;
	u32 mtime_ns;
	u32 ctime_ns;
	u32 device; /* the kernel's own encoding: major << 20 | minor */
	u32 links;
};

struct fork_record {
	struct header header;
	struct identity child;
	u64 forker_start_ns; /* who called fork; the parent is another with CLONE_PARENT */
	u32 forker_pid;
	u32 unused;
};

struct exec_record {
	struct header header;
	struct identity process;
	struct image image;
	u32 argument_length; /* of all arguments, cut or not */
	u32 arguments;       /* lengths of what follows */
	u16 filename;
	u16 interpreter;
	u16 path;
	u16 cwd;
	u16 cgroup;
	u16 unused[3];
};

struct exit_record {
	struct header header;
	struct identity process;
	u64 run_ns;
	u32 status; /* as wait(2) reports it */
	u32 unused;
};

struct credentials_record {
	struct header header;
	struct identity process; /* with the new ids */
	u32 former_uid;
	u32 former_euid;
	u32 former_gid;
	u32 former_egid;
};

struct task_record {
	struct header header;
	struct identity process;
	struct image image;
	u64 cpu_ns;
	u64 resident_pages;
	u64 argument_start;
	u64 argument_end;
	u32 state; /* the kernel's __state and exit_state */
	u32 exit_state;
	u32 threads;
	u32 tty; /* as field 7 of /proc/PID/stat */
	u16 path; /* lengths of what follows */
	u16 cwd;
	u16 cgroup;
	u16 unused;
};

_Static_assert(sizeof(struct header) == 16, "header");
_Static_assert(sizeof(struct identity) == 96, "identity");
_Static_assert(sizeof(struct image) == 48, "image");
_Static_assert(sizeof(struct fork_record) == 128, "fork");
_Static_assert(sizeof(struct exec_record) == 184, "exec");
_Static_assert(sizeof(struct exit_record) == 128, "exit");
_Static_assert(sizeof(struct credentials_record) == 128, "credentials");
_Static_assert(sizeof(struct task_record) == 216, "task");
_Static_assert(sizeof(struct exec_record) + 3 * PATH_BYTES + INTERPRETER_BYTES + CGROUP_BYTES + ARGUMENT_BYTES <=
		       RECORD_BYTES, "the longest record");
